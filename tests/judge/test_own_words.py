"""What is masked as quoted or as code, character by character; `_` stands for what is masked."""

import pytest

from bezoar.verdicts.own_words import MASK, ONE_WORD, own_words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # lines
        ("> a\nb", "___\nb"),
        ("  > a", "_____"),
        (">> a", "____"),
        ("- > a", "_____"),
        ("* - > a", "_______"),
        ("12. > a", "_______"),
        ("1) > a", "______"),
        ("+ > a", "_____"),
        ("• > a", "_____"),
        ("-> a", "-> a"),
        ("a > b", "a > b"),
        # fences
        ("```\na\n```\nb", "___\n_\n___\nb"),
        ("```py\na\n````\nb", "_____\n_\n____\nb"),
        ("````\na\n```\nb", "____\n_\n___\n_"),
        ("~~~ x\n```\n~~~\nb", "_____\n___\n___\nb"),
        ("```\na\n``` b\nc", "___\n_\n_____\n_"),
        ("- ```\n  a\n  ```\nb", "_____\n___\n_____\nb"),
        ("``\na\n``", "__\n_\n__"),
        ("~~ a\nb", "~~ a\nb"),
        ("> ```\na", "_____\na"),
        # blocks
        ("a\n\n    b\n\n\tc\nd", "a\n\n_____\n\n__\nd"),
        ("    a", "    a"),
        ("\n\n    a", "\n\n    a"),
        ("a\n    b", "a\n    b"),
        ("a\n\n   b", "a\n\n   b"),
        ("a\n\n    ```\nb", "a\n\n_______\nb"),
        # runs of backticks
        ("a `b` c", "a ___ c"),
        ("`a\nb` c", "__\n__ c"),
        ("`a\n\nb` c", "`a\n\nb` c"),
        ("`a\n \nb` c", "`a\n \nb` c"),
        ("``a`b`` `c", "_______ `c"),
        ("`a`` b` ``c``", "_______ _____"),
        ("``` a ``` b", "_________ b"),
        # elements
        ("<blockquote>\na\n</blockquote>\nb", "____________\n_\n_____________\nb"),
        ("<CODE class='x'>a</code> b <pre> c", "________________________ b <pre> c"),
        ("a <q>b</q> c </q> d", "a ________ c </q> d"),
        ("a < b, <query>c</q>", "a < b, <query>c</q>"),
        # three marks
        ('"""\na "b\n"""\nc', "___\n____\n___\nc"),
        ("'''it's a''' b", "____________ b"),
        # marks
        ('x "a b" y', "x _____ y"),
        ('"a" b', "___ b"),
        ('a 5" b 6" c', 'a 5" b 6" c'),
        ('"a 5" b', "_____ b"),
        ('a"b c" d', 'a"b c" d'),
        ('" a" b', '" a" b'),
        ('"a " b', '"a " b'),
        ('"a b"c', '"a b"c'),
        ('"open. "a b" c', '"open. _____ c'),
        ('it says "\na\n" c', "it says _\n_\n_ c"),
        ('"a\n\nb" c', "__\n\n__ c"),
        ('*"a b"*', "*_____*"),
        ("“a b” c “d", "_____ c “d"),
        ("„a“ b „c” «d» 「e」", "___ b ___ ___ ___"),
        ("'it's a' b", "________ b"),
        ("the users' fault 'cause b", "the users' fault 'cause b"),
        ("'a\nb'", "'a\nb'"),
        ("‘it’s a’ b don’t", "________ b don’t"),
        ('{"a": "b c"}', "{___: _____}"),
        ("``it's a'' b", "__________ b"),
        ("`a b' c", "_____ c"),
        ("`d's", "`d's"),
        ("``a\nb'' c", "``a\nb'' c"),
        ("`a\nb' c", "`a\nb' c"),
        # a mark inside: the nearest pair quotes
        ("“a “b” c", "“a ___ c"),
        ("„a „b“ c", "„a ___ c"),
        ("«a «bb» c", "«a ____ c"),
        ("「a 「bb」 c", "「a ____ c"),
        ("‘a ‘b’ c", "‘a ___ c"),
        ("``a `b'' c", "``a ___' c"),
        ("`a ``b' c", "`a ``b' c"),
        ("``a' b", "``a' b"),
        ("''a' b", "''a' b"),
        # single marks open behind no letter and close before none; between two letters they are
        # apostrophes
        ("x 'a b' y", "x _____ y"),
        ("rock'n roll' b", "rock'n roll' b"),
        ("' a' b", "' a' b"),
        ("'a ' b", "'a ' b"),
        ("'a.'b", "'a.'b"),
        ("'a 'b c' d", "'a _____ d"),
        ("x ‘a b’ y", "x _____ y"),
        ("a‘b c’ d", "a‘b c’ d"),
        ("‘a ’b c’ d", "____b c’ d"),
        ("‘a\nb’ c", "‘a\nb’ c"),
        # an underscore is emphasis, no letter
        ('_"a b"_', "_______"),
        ("_'a b'_ c' d", "_______ c' d"),
        ("'a_'b c' d", "'a______ d"),
        ("_‘a b’_ c’ d", "_______ c’ d"),
        ("‘a_’b c’ d", "____b c’ d"),
        ("`a b'_", "______"),
        # ends of lines
        ("> a\r\nb", "____\nb"),
        ("> a\rb", "___\nb"),
        ("", ""),
    ],
)
def test_masks(text: str, shown: str) -> None:
    assert own_words(text).replace(MASK, "_").replace(" \n", "\n") == shown.replace(" \n", "\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('"a" b', '"a" b'),
        ('"_a_"', '"_a_"'),
        ('"a_b"', "_____"),
        ('{"a": "b c"}', '{"a": _____}'),
        ("“a!” b", "“a!” b"),
        ("«a» „b“ „b c“", "«a» „b“ _____"),
        ("'a' “b c”", "'a' _____"),
        ("`a`", "___"),
        ("> a", "___"),
        ('"..."', "_____"),
    ],
)
def test_what_is_kept_in_marks(text: str, shown: str) -> None:
    assert own_words(text, ONE_WORD).replace(MASK, "_") == shown
