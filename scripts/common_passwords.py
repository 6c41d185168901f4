"""Write src/luxx/domain/common_passwords.txt from the frequency list of the package zxcvbn.

    pip install zxcvbn==4.5.0 && python scripts/common_passwords.py

Passwords shorter than the shortest that is allowed are left out: the length rule refuses them already.
"""

from pathlib import Path

from zxcvbn.frequency_lists import FREQUENCY_LISTS

from luxx.domain.user import PASSWORD_MIN

COUNT = 3000
TARGET = Path(__file__).parents[1] / "src/luxx/domain/common_passwords.txt"


def main() -> None:
    ranked = dict.fromkeys(word.casefold() for word in FREQUENCY_LISTS["passwords"] if len(word) >= PASSWORD_MIN)
    TARGET.write_text("".join(f"{word}\n" for word in list(ranked)[:COUNT]), encoding="utf-8")


if __name__ == "__main__":
    main()
