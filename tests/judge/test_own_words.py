"""What of a reply is its writer's own: the text as it was, with ■ here for each character that is not."""

import pytest

from bezoar.judge.own_words import MASK, ONE_WORD, own_words


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("", ""),
        ("it is good", "it is good"),
        ("> quoted\nown", "■■■■■■■■\nown"),
        ("- > quoted\n1. > too\nown > not", "■■■■■■■■■■\n■■■■■■■■\nown > not"),
        ("a `b` c `d` e", "a ■■■ c ■■■ e"),
        ("``a ` b`` c", "■■■■■■■■■ c"),
        ("`open and ``closed`` c", "`open and ■■■■■■■■■■ c"),
        ("`one\n\nparagraph` each", "`one\n\nparagraph` each"),
        ("`two\nlines`!", "■■■■\n■■■■■■!"),
        ("```\na\n```\nb", "■■■\n■\n■■■\nb"),
        ("```text\na\n~~~\n````\nb", "■■■■■■■\n■\n■■■\n■■■■\nb"),
        ("~~~\na\n``` \n~~\nb", "■■■\n■\n■■■■\n■■\n■"),
        ("a\n\n    b\n\n    c\nd", "a\n\n■■■■■\n\n■■■■■\nd"),
        ("a\n\n    ```\n\nb", "a\n\n■■■■■■■\n\nb"),
        ("a\n\n\tb\n   \tc", "a\n\n■■\n■■■■■"),
        ("    a", "    a"),
        ("\n    a", "\n    a"),
        ("a\n    b", "a\n    b"),
        ("a\n\n   b", "a\n\n   b"),
        ('say "a\nb" now', "say ■■\n■■ now"),
        ('a 5" nail and a 6" one', 'a 5" nail and a 6" one'),
        ("«a» „b“ “c” 「d」 ‘e’ 'f'", "■■■ ■■■ ■■■ ■■■ ■■■ ■■■"),
        ("it's the cats' bowl", "it's the cats' bowl"),
        ("'it's' here", "■■■■■■ here"),
        ("> a\r\nb\rc", "■■■■\nb\nc"),
    ],
)
def test_what_is_masked(text: str, own: str) -> None:
    assert own_words(text) == own.replace("■", MASK)
    assert len(own_words(text)) == len(text)


def test_what_may_stay() -> None:
    text = '"Accept" and "the verdict": "Reject!", “no” \'yes\''
    assert own_words(text, ONE_WORD).replace(MASK, "■") == '"Accept" and ■■■■■■■■■■■■■: "Reject!", “no” \'yes\''
    assert own_words(text).replace(MASK, "■") == "■■■■■■■■ and ■■■■■■■■■■■■■: ■■■■■■■■■, ■■■■ ■■■■■"
