"""Numbers and things in, words for people out."""


def counted(number: int, noun: str) -> str:
    """`1 video`, `2,000 videos`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
