"""What is said of a package that is missing, and what is left as it was raised."""

import pytest

from luxx.extras import MissingExtra, needs


def test_a_package_that_is_missing_is_named_with_what_brings_it() -> None:
    with pytest.raises(MissingExtra) as caught, needs("luxx.client", "the extra `client`"):
        import nothing_of_this_name.at_all  # type: ignore[import-not-found]  # noqa: F401, PLC0415
    assert str(caught.value) == "luxx.client needs nothing_of_this_name: install luxx with the extra `client`"
    assert caught.value.name == "nothing_of_this_name"
    assert isinstance(caught.value, ImportError)


def test_around_another_the_outer_words_count() -> None:
    with pytest.raises(MissingExtra, match=r"^outer needs nothing: install luxx with more$"):  # noqa: SIM117
        with needs("outer", "more"), needs("inner", "less"):
            raise ModuleNotFoundError("No module named 'nothing'", name="nothing")


@pytest.mark.parametrize("name", ["luxx.nothing_of_this_name", "httpx.nothing_of_this_name", None])
def test_what_is_no_missing_package_is_raised_as_it_is(name: str | None) -> None:
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    with pytest.raises(ModuleNotFoundError) as caught, needs("luxx.client", "the extra `client`"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [ImportError("cannot import name 'x'", name="httpx"), ValueError("no")])
def test_other_errors_are_none_of_its_business(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, needs("luxx.client", "the extra `client`"):
        raise error
    assert caught.value is error
