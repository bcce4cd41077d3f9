"""Letters: classes of them for brackets of regular expressions, and one form for each; as in 0003_search_words.sql."""

import unicodedata

HAN = r"\u3005-\u3007\u3021-\u3029\u303B\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF\U00020000-\U0003FFFF"
HIRAGANA = r"\u3041-\u3096\u309D-\u309F"
KATAKANA = r"\u30A1-\u30FA\u30FC-\u30FF\u31F0-\u31FF\uFF66-\uFF9F"
HANGUL = r"\u1100-\u11FF\uA960-\uA97F\uAC00-\uD7FB\uFFA0-\uFFDC"

# The letters of the scripts that put no spaces between words, or whose words grow at their ends without one, as Korean.
LETTERS = (
    r"\u0E01-\u0E30\u0E32\u0E33\u0E40-\u0E46\u0E81-\u0EB0\u0EB2\u0EB3\u0EBD-\u0EC6\u0EDC-\u0EDF\u1000-\u102A"
    r"\u103F\u1050-\u1055\u105A-\u105D\u1061\u1065\u1066\u106E-\u1070\u1075-\u1081\u108E\u1100-\u11FF\u1780-\u17B3"
    r"\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303B\u303C\u3041-\u3096\u309D-\u309F\u30A1-\u30FA\u30FC-\u30FF"
    r"\u3105-\u312F\u31A0-\u31BF\u31F0-\u31FF\u3400-\u4DBF\u4E00-\u9FFF\uA960-\uA97F\uAC00-\uD7FB\uF900-\uFAFF"
    r"\uFF66-\uFFDC\U00020000-\U0003FFFF"
)
# Signs that belong to the letter before.
SIGNS = (
    r"\u0E31\u0E34-\u0E3A\u0E47-\u0E4E\u0EB1\u0EB4-\u0EBC\u0EC8-\u0ECF\u102B-\u103E\u1056-\u1059\u105E-\u1060"
    r"\u1062-\u1064\u1067-\u106D\u1071-\u1074\u1082-\u108D\u108F\u17B4-\u17D3"
)
UNSPACED = LETTERS + SIGNS
# What stands between words but is not ASCII.
SEPARATORS = (
    r"[\u0080-\u00A9\u00AB-\u00B1\u00B4\u00B6-\u00B8\u00BB\u00BF\u00D7\u00F7\u037E\u0387\u055A-\u055F\u0589"
    r"\u058A\u05BE\u05C0\u05C3\u05F3\u05F4\u060C\u061B\u061F\u066A-\u066D\u06D4\u0964\u0965\u0E4F\u0E5A\u0E5B"
    r"\u0F04-\u0F14\u104A-\u104F\u10FB\u1361-\u1368\u17D4-\u17DA\u1800-\u180A\u2000-\u200B\u200E-\u206F"
    r"\u20A0-\u20FF\u2190-\u245F\u2500-\u2BFF\u2E00-\u2E7F\u3000-\u3004\u3008-\u3020\u302A-\u3030\u303D-\u303F"
    r"\u309B\u309C\u30A0\u30FB\uE000-\uF8FF\uFE00-\uFE1F\uFE30-\uFE6F\uFEFF\uFF00-\uFF0F\uFF1A-\uFF20\uFF3B-\uFF40"
    r"\uFF5B-\uFF65\uFFE0-\uFFFF"
    r"\U0001F000-\U0001FAFF\U000E0000-\U0010FFFF]"
)


def fold_letters(text: str) -> str:
    """*text* in the form in which it is indexed, but for case and stems: NFKC without soft hyphens."""
    if text.isascii():
        return text
    folded = unicodedata.normalize("NFKC", text).replace("\u00ad", "")
    # NFKC takes these Thai and Lao vowels apart, of which each is one letter to those who write them
    return folded.replace("\u0e4d\u0e32", "\u0e33").replace("\u0ecd\u0eb2", "\u0eb3")
