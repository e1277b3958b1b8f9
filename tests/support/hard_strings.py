"""Texts that tokenizers stumble over, by kind. Two programs that give the same ids for all of them rarely differ elsewhere."""

from itertools import product

_SYLLABLES = [
    "ក", "កា", "កិ", "កឹ", "កុ", "កេ", "កែ", "កៅ", "កំ", "កះ", "កៈ", "ក់", "ក៊ី", "ក៉ា", "ក៌", "ក៍", "ក៎", "ក៏",
    "ក័", "ក៑",
]  # fmt: skip
_STACKS = [
    "ក្ក", "ខ្ញុំ", "ស្ត្រី", "ក្រ្តៅ", "ន្ទ្រ", "ង្ក្រោះ", "ស្រ្តី", "ល្បឿន", "ញ៉ាំ", "អ៊ឹ", "ប៉ះ", "ម៉្យាង",
    "កណ្ដាល", "កណ្តាល", "ខែ្មរ", "លេាក", "្ក", "្្ក", "ា", "ំ់", "ក្", "ក្ ក", "ក្\u200bក", "ក្្ម", "ក្៝ម", "ឣ",
    "ឤ", "ឨ", "៘", "឴", "឵", "ៜ", "៝",
]  # fmt: skip
_SIGNS = [
    "។", "៕", "៖", "ៗ", "៙", "៚", "៛", "ល។", "៛១០០", "«ក»", "(ក)", "((ក", "“ក”", "ក៖ ខ", "ក។ខ", "។។។", "...",
    "…ក",
]  # fmt: skip
KHMER = [
    *_SYLLABLES, *_STACKS, *_SIGNS,
    "ប្រទេសកម្ពុជាជាប្រទេសមួយនៅអាស៊ីអាគ្នេយ៍។ កុមារទៅសាលារៀនរាល់ថ្ងៃ។", "ភាសាខ្មែរ\nអក្សរខ្មែរ", "ខ្ញុំ ស្រឡាញ់ ភាសា ខ្មែរ",
]  # fmt: skip
INVISIBLE = [f"{a}{mark}{b}" for mark, (a, b) in product(
    ["\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\ufe0f", "\u00ad"], [("ក", "ខ"), ("a", "b"), (" ", "ក")]
)] + ["\u200b", "\u200b\u200b", "\u200d", "ខ្ញុំ\u200bស្រឡាញ់\u200bភាសា", "ក\u200cា", "\u200e\u200fក"]  # fmt: skip
DIGITS = [
    "0", "12", "123", "1234", "12345678", "១", "១២", "១២៣", "១២៣៤", "១២៣៤៥៦៧", "ថ្ងៃទី១៥ ខែ០៤ ឆ្នាំ២០២៦",
    "2026-11-22", "3.14159", "1,000,000", "១.០០០", "៣៥%", "50kg", "ក1ខ2", "១a២b", "٣٤٥", "४५६", "½¼", "Ⅷ ⅷ",
    "①②③", "៰៱៲", "x²", "007", "+855 12 345 678",
]  # fmt: skip
SPACES = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", " \n", "\n ", " \n \n", "\t\t",
    " \t ", " a", "  a", "   a", "a ", "a  ", "a\n", "a\n\nb", "a \n b", "a\r\nb\r\n", "\ta", "a\tb", "\u00a0a",
    "a\u00a0b", "a\u3000b", "a\u2003b", "a\x85b", "a\u2028b", "a\x0bb\x0cc", " ក", "  ក", "ក  ខ", "ក \nខ",
]  # fmt: skip
CODE = [
    "if (x) {\n    return 1;\n}", "def f(a, b=2):\n\treturn a**b  # ok", "x += 1; y--",
    "<a href=\"/k?q=1&r=2\">x</a>", "foo_bar.baz[0]", "https://km.wikipedia.org/wiki/ភាសាខ្មែរ?a=1#b",
    "http://x.y/z/", "C:\\Users\\កុមារ\\a.txt", "user@example.com", "camelCaseHTTPServer",
    "{{'a': [1, 2, {}]}}", "$x$ \\frac{a}{b}", "a/b//c", "!!!\n\n", "---\n", "=====", "# ចំណងជើង\n\n- ក\n- ខ",
]  # fmt: skip
SPECIAL = [
    "<|endoftext|>", "<|user|>សួស្តី<|end|>", "<pad>", "<unk>", "<bos><eos>", "a<|endoftext|>b", "<0x41>",
    "<0xE1><0x9E><0x80>", "[UNK]", "</s>", "<|endoftext", "|>", "<s>", "##ing", "Ġthe",
]  # fmt: skip
ENGLISH = [
    "Hello world", "HELLO", "it's", "IT'S", "I'll we've they're he'd", "'some 'tis 're", "don’t", "''s", "'",
    "e\u0301te\u0301", "naïve café", "Straße", "ſ 'ſ", "Åström", "o\u0308\u0323x",
    "The children walk to school, ខ្ញុំទៅសាលា, every day.", "abcខ្មែរdef",
]  # fmt: skip
OTHERS = [
    "日本語テキスト", "中文，测试。", "한국어 문장", "ภาษาไทย", "ພາສາລາວ", "မြန်မာ", "हिन्दी क्ष", "தமிழ்",
    "العربية", "עִבְרִית", "русский", "Ελληνικά", "ქართული", "አማርኛ", "日本語abcខ្មែរ", "Tiếng Việt", "𝔘𝔫𝔦",
    "𒀀𒀁", "\U00020000",
]  # fmt: skip
EMOJI = [
    "😀", "👩🏽‍🚀", "🇰🇭", "👨‍👩‍👧‍👦", "❤️", "1️⃣", "ក😀ខ", "😀😀 😀", "🏳️‍🌈", "☺", "🫠",
]  # fmt: skip
RARE = [
    "\x00", "a\x00b", "\x01\x1f\x7f", "\x80\x9f", "\u0378", "\ufffd", "\ufffe\uffff", "\U000e0001",
    "\U0010ffff", "\ue000", "\ud7ff", "᧠᧡᧳", "§¶†‡", "™®©", "∑∫√", "→⇒", "█▓▁", "﷽", "ﬁ", "Ⅻ", "\u0300",
    "a\u0300\u0301\u0302\u0303", "\u1abe", "\u20dd",
]  # fmt: skip
HARD_STRINGS = [*KHMER, *INVISIBLE, *DIGITS, *SPACES, *CODE, *SPECIAL, *ENGLISH, *OTHERS, *EMOJI, *RARE]
