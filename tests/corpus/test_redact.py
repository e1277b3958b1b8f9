"""E-mail addresses and telephone numbers are taken out; other numbers stay as they are."""

import random
import time

import pytest

from tonsai_jax.corpus.cleaning.redact import EMAIL, PHONE, Redaction, redact
from tonsai_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Write to sok.dara+news@mail.gov.kh.", "Write to {}."),
        ("<SOK_1@Mail-2.COM>,a%b@c.io", "<{}>,{}"),
        ("mailto:sok@mail.com?subject=x", "mailto:{}?subject=x"),
        ("អ៊ីមែលsok@mail.comនិង៖sok@mail.kh។", "អ៊ីមែល{}និង៖{}។"),
        ("...sok@mail.com", "...{}"),
        ("a@b.com.sok@mail.com", "{}.{}"),
    ],
)
def test_an_address_gives_way_to_one_that_belongs_to_nobody(text: str, clean: str) -> None:
    assert redact(text) == (clean.replace("{}", EMAIL), clean.count("{}"))


@pytest.mark.parametrize(
    "text",
    [
        "email@example.com, sok@mail.example.org, root@localhost.localdomain.test",
        "git clone git@github.com:owner/name.git",
        "npm install lodash@4.17.21-beta.rc",
        "systemctl start openvpn@client.service",
        "@decorator.name, y = x@w, 5 @ 3.00, https://medium.com/@sok.dara",
        "a@b, a@.com, a@b.c, @mail.com, " + "x" * 65 + "@mail.com",
    ],
)
def test_what_is_no_persons_address_stays(text: str) -> None:
    assert redact(text) == (text, 0)


PHONES = [
    *("+855 12 345 678", "+85512345678", "+855-12-345-6789", "+855 (0)12 345 678", "(+855) 12 345 678", "+(855) 12 345678"),
    *("+855 012 345 678", "00855 12 345 678", "0085512345678", "(855-23) 880 880", "855 12 345 678", "+855 97 1234 567"),
    *("012 345 678", "012345678", "0976543210", "097 654 3210", "012-345-678", "012.345.678", "(012) 345 678"),
    *("012 34 56 78", "023 880880", "097 1234 567", "(023)880 880", "023 72 461", "023–880–880", "0912 345 678"),
    *("097 65 432 10", "097 12 345 678"),
    *("០១២ ៣៤៥ ៦៧៨", "០១២៣៤៥៦៧៨", "០៩៧-៦៥៤-៣២១០", "(០១២) ៣៤៥ ៦៧៨", "+៨៥៥ ១២ ៣៤៥ ៦៧៨"),
    *("(555) 234-5678", "(555)234-5678", "555-234-5678", "555.234.5678", "1-800-555-2345", "+1 555 234 5678"),
    *("+1 (555) 234-5678", "+15552345678", "1 (800) 555-2345", "020 7946 0958", "+44 20 7946 0958", "+44 (0)20 7946 0958"),
    *("+33 6 12 34 56 78", "+84 912 345 678", "0084 912 345 678", "+66 81 234 5678", "+7 912 345-67-89", "+8613912345678"),
]  # fmt: skip


@pytest.mark.parametrize("number", PHONES)
def test_a_number_goes_wherever_it_stands(number: str) -> None:
    around = "{}", "Call {}.", "ទូរស័ព្ទលេខ{}បាន។", "Tel:{},", "លេខ៖ {}/{}", "({}; {})", "{}\n{}", "{} - 24 hours", "[{}]"
    for text in around:
        assert redact(text.replace("{}", number)) == (text.replace("{}", PHONE), text.count("{}")), text


def test_several_numbers_in_a_row_go_together() -> None:
    assert redact("Tel: 012 345 678 098 765 432") == (f"Tel: {PHONE}", 1)
    assert redact("012 345 678/098 765 432 / 011 223 344,015 667 788") == (f"{PHONE}/{PHONE} / {PHONE},{PHONE}", 4)


@pytest.mark.parametrize("word", ["Tel:", "Telephone No.:", "fax.", "WhatsApp:", "លេខទូរស័ព្ទ៖", "ទូរសព្ទដៃ ៖"])
def test_a_word_before_it_makes_a_number_of_any_shape_one_of_a_telephone(word: str) -> None:
    assert redact(f"{word}012345678") == (f"{word}{PHONE}", 1)
    for number in ("12 345 678", "2388 0880", "98765432", "06 12 34 56 78", "១២ ៣៤៥ ៦៧៨"):
        assert redact(f"{word} {number}") == (f"{word} {PHONE}", 1)
        assert redact(f"ages {number}") == (f"ages {number}", 0)


NUMBERS = [
    "from 1975-1979 and 2004–2008, 1990 1991 1992 1993 1994",
    "2024-11-21, 21.11.2024, 01-02-2020, 01 02 2020, ០១-០២-២០២០, 20241121, 2024-11-21 08:30:00, Tel: 2024-11-21",
    "Boston, MA 02110-1301, USA; Phys. Rev. E 90, 033315 (2014); commit `0507535277`, 10.1073/pnas.0709640104",
    "-2147483648 +2147483647, $1,234,567.89, 10 000 000 riels, 012 345 678៛, ១០ ០០០ ០០០ រៀល, 1.250.000.000, USD 250 500 000",
    "ISBN 0306406152, ISBN-10: 0-306-40615-2, ISBN 978-0-306-40615-7, 9780306406157, ISSN 0317-8471",
    "3.14159265358979, 0.012345678, -0.111976258456707, 11.5564 104.9282, 0,012345678, 12:012345678",
    "192.168.100.200, 10.0.0.1, 127.000.000.001, v2.10.2024.1105, 1.2.3.4.5.6.7.8",
    "id 1776017178687320256, 20979437051, AB-012345678, x012345678, 012345678x, a_012345678, ID: 012345678, #012345678",
    "https://site.com/012345678/555-234-5678.html?id=012345678&n=098765432, 012345678.50",
    "មាត្រា ១២៣ កថាខណ្ឌ ២ នស/រកម/០៥២១/០១០ លេខ ០១២ អនក្រ.បក ១១ ១២ ១៣ ១៨ ២២ ២៤ ១៩៣៣-១៩៥៣",
    "01 02 03 04 05, 010 011 012, 010 101 010, 0123456789, 001 002 003, 12 345 678 901, 555 234 5678 910",
    "+10 000 000, +250 000 000, 1 + 224 201 348, x+1234567890, 1e+012345678, 100*012345678",
    "arXiv 1706.03762 1810.04805, p. 123-456-789, 5 012 345 678",
]


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_that_is_no_telephones_stays(text: str) -> None:
    assert redact(text) == (text, 0)


def test_each_kind_can_be_left_in() -> None:
    text = "sok@mail.com 012 345 678"
    assert redact(text, Redaction(email=False)) == (f"sok@mail.com {PHONE}", 1)
    assert redact(text, Redaction(phone=False)) == (f"{EMAIL} 012 345 678", 1)
    assert redact(text) == (f"{EMAIL} {PHONE}", 2)
    with pytest.raises(UserError, match=r"redact: phone is 'no'; it must be one of: true, false"):
        Redaction(phone="no")  # type: ignore[arg-type]


def test_twice_changes_nothing_more() -> None:
    numbers = random.Random(0)
    pieces = [
        *PHONES,
        *" .,-/:+()@\nក៛",
        "Tel: ",
        "12",
        "0",
        " 555-",
        "a@b.com",
        ".kh",
        "sok",
        "@",
        "ISBN ",
        EMAIL,
        PHONE,
    ]
    for text in ("Tel: 12 +855 12 345 678", "012345678:៩+84 912 345 678"):
        assert redact(redact(text)[0])[1] == 0
    redacted = 0
    for _ in range(20_000):
        text = "".join(numbers.choices(pieces, k=numbers.randint(2, 7)))
        clean, count = redact(text)
        assert redact(clean) == (clean, 0), text
        redacted += count
    assert redacted > 10_000


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "0",
            "012 ",
            "0-",
            "012345678 ",
            "1.",
            "(012)",
            "+",
            "+855",
            "+(0",
            "(((0",
            "0 (1) ",
            "555-",
            "១២៣ ",
            "Tel: 0",
        ),
        *("a@", "a.", "a@a@a@", "a.a.a.", "a@a.", "@a.a", "a" * 64 + "@a.aa", "@", "a@b.c1", "-", "a@" + "a." * 9),
    ],
)
def test_hostile_text_takes_no_longer_than_other_text(piece: str) -> None:
    text = piece * (10**6 // len(piece))
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 3, "seconds for 1 MB; less than 0.2 where time is linear"
