"""`query_table`: the right types, the right answers, and nothing but the table within reach."""

from typing import Any

import pytest

from luxx.adapters.tools.jobs.table import query_table
from luxx.domain.errors import ToolRefused

CITIES = """city,people,zip,founded,capital,area
Berlin,3700000,00123,1237-10-28,true,891.7
北京,21500000,00001,1045-01-01,true,16410.5
"Rome, Italy",2800000,00100,0753-04-21,true,1285
Milan,1400000,00200,0600-01-01,false,
"""


def rows(data: str | list[Any], sql: str) -> list[list[Any]]:
    result: list[list[Any]] = query_table(data, sql)["rows"]
    return result


def test_csv_columns_get_the_type_of_their_cells() -> None:
    described = dict(row[:2] for row in rows(CITIES, "DESCRIBE data"))
    assert described == {
        "city": "VARCHAR",
        "people": "BIGINT",
        "zip": "VARCHAR",
        "founded": "DATE",
        "capital": "BOOLEAN",
        "area": "DOUBLE",
    }


def test_csv_is_queried() -> None:
    result = query_table(CITIES, "SELECT city, people FROM data WHERE capital ORDER BY people DESC LIMIT 2")
    assert result == {
        "columns": ["city", "people"],
        "rows": [["北京", 21500000], ["Berlin", 3700000]],
        "row_count": 2,
        "truncated": False,
    }
    assert rows(CITIES, "SELECT sum(people), avg(area), min(zip) FROM data") == [[29400000, 6195.733333333334, "00001"]]
    assert rows(CITIES, "SELECT city FROM data WHERE area IS NULL") == [["Milan"]]
    assert rows(CITIES, "SELECT max(founded) - DATE '1237-10-27' FROM data") == [[1]]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_recognised(separator: str) -> None:
    text = f"a{separator}b\r\n1{separator}2\r\n"
    assert rows(text, "SELECT a + b FROM data") == [[3]]


def test_json_objects_are_rows_and_their_keys_columns() -> None:
    data = [{"name": "Ada", "age": 36}, {"name": "Bob", "score": 1.5}, {"name": None, "age": 4}]
    assert rows(data, "SELECT name, age, score FROM data") == [["Ada", 36, None], ["Bob", None, 1.5], [None, 4, None]]
    assert rows('[{"a": 1}, {"a": 2}]', "SELECT sum(a) FROM data") == [[3]]


def test_json_arrays_are_rows_and_a_head_of_texts_names_them() -> None:
    assert query_table([["n", "v"], ["a", 1], ["b", 2]], "SELECT * FROM data")["columns"] == ["n", "v"]
    assert rows([[1, 2], [3, 4]], "SELECT column0 + column1 FROM data") == [[3], [7]]
    assert rows([3, 1, 2], "SELECT max(value) FROM data") == [[3]]


def test_nested_json_stays_json() -> None:
    data = [{"a": {"b": [1, 2]}}, {"a": None}]
    assert rows(data, "SELECT a, a->'$.b[1]' FROM data") == [[{"b": [1, 2]}, 2], [None, None]]


def test_columns_of_one_name_are_told_apart() -> None:
    assert query_table("a,A,a\n1,2,3", "FROM data")["columns"] == ["a", "A_2", "a_3"]


def test_what_only_looks_like_a_date_is_text() -> None:
    assert rows("d\n2024-02-30\n2024-01-01", "SELECT max(d) FROM data") == [["2024-02-30"]]


def test_numbers_that_fit_no_integer_column_are_kept_as_well_as_can_be() -> None:
    assert rows([{"n": 2**70}], "SELECT n FROM data") == [[float(2**70)]]
    assert rows(f"n\n{2**63}", "SELECT n FROM data") == [[float(2**63)]]


def test_every_type_of_a_result_has_a_json_form() -> None:
    sql = """SELECT 'nan'::DOUBLE, 1.50::DECIMAL(10, 2), 12345678901234567.25::DECIMAL(30, 2), 2::HUGEINT ** 1,
        INTERVAL 3 DAYS, MAP {'a': 1}, {'a': [1.5]}, 'x'::BLOB, TIME '10:00', DATE '2024-01-02',
        TIMESTAMP '2024-01-02 03:04:05', TIMESTAMPTZ '2024-01-02 03:04:05+08:00', NULL, TRUE -- and a comment"""
    assert rows("a\n1", sql)[0] == [
        "nan", 1.5, "12345678901234567.25", 2.0, "3 days", {"a": 1}, {"a": [1.5]}, "78", "10:00:00",
        "2024-01-02", "2024-01-02T03:04:05", "2024-01-01 19:04:05+00", None, True,
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["", ";", "; -- a note", " ; /* a; note */ ;", " -- a; note", " /* a; note */"])
def test_what_stands_behind_a_query_does_not_matter(end: str) -> None:
    assert rows("a\n1", f"SELECT 'é;', INTERVAL 3 DAYS{end}") == [["é;", "3 days"]]


def test_an_interval_is_told_as_it_is_however_long() -> None:
    sql = "SELECT INTERVAL 1 YEAR, INTERVAL 100000000 YEAR, TIMESTAMP '2024-01-02 03:00' - TIMESTAMP '2024-01-01'"
    assert rows("a\n1", sql) == [["1 year", "100000000 years", "1 day 03:00:00"]]


@pytest.mark.parametrize("number", ["1e999", "1" * 5000])
def test_json_with_a_number_that_is_too_large_stays_text(number: str) -> None:
    assert rows("a\n1", f"SELECT '[{number}]'::JSON, '[1]'::JSON") == [[f"[{number}]", [1]]]


def test_a_pivot_is_a_query() -> None:
    assert rows("k,v\na,1\nb,2", "PIVOT data ON k USING sum(v)") == [[1, 2]]


def test_a_long_result_is_cut_and_says_so() -> None:
    result = query_table("a\n1", "SELECT * FROM range(5000)")
    assert (result["row_count"], result["truncated"]) == (1000, True)
    result = query_table("a\n1", "SELECT repeat('x', 200000) FROM range(10)")
    assert (result["row_count"], result["truncated"]) == (2, True)


@pytest.mark.parametrize(
    ("data", "sql", "reason"),
    [
        ("", "SELECT 1", "the data is empty"),
        ([], "SELECT 1", "an empty array"),
        ([{}], "SELECT 1", "have no keys"),
        ([[]], "SELECT 1", "the rows of the data are empty"),
        ([1, {}], "SELECT 1", "not of several kinds"),
        ("[1", "SELECT 1", "starts like a JSON array"),
        ("a\n1,2", "SELECT 1", "row 2 of the CSV has 2 cells"),
        ('a\n"x', "SELECT 1", "the CSV cannot be read"),
        ("a\n1", "SELEC 1", "syntax error"),
        ("a\n1", "SELECT b FROM data", '"b" not found'),
        ("a\n1", "", "not 0"),
        ("a\n1", "SELECT 1; SELECT 2", "not 2"),
        ("a\n1", "DROP TABLE data", "this is DROP"),
        ("a\n1", "SELECT repeat('x', 600000)", "the first row of the result alone"),
        (",".join(map(str, range(501))), "SELECT 1", "501 columns"),
    ],
)
def test_what_cannot_be_asked_is_explained(data: str | list[Any], sql: str, reason: str) -> None:
    with pytest.raises(ToolRefused, match=reason):
        query_table(data, sql)
