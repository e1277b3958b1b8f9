"""Redaction: replaces e-mail addresses and telephone numbers, which are personal data, by placeholders.

Quantities, dates and identifiers must stay: digits are a telephone number only if they have the form of one, or follow a word
such as "Tel:". Khmer has no spaces between words, so Khmer letters may touch an address or a number.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

from tonsai_jax.errors import UserError

EMAIL = "email@example.com"
PHONE = "000 000 0000"  # no real number begins with 000

_LOCAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_LONGEST_LOCAL = 64  # RFC 5321, 4.5.3.1.1
# Labels, the last one of letters only. Not a version (package@1.2.3-beta.rc), not the start of a longer word or address.
_DOMAIN = re.compile(r"@(?!\d+\.\d)(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}(?![A-Za-z0-9_@])")
# Domains reserved by RFC 2606, and names of systemd units.
_RESERVED = re.compile(
    r"@(?:.*\.)?(?:example(?:\.(?:com|net|org))?|invalid|localhost|test|service|socket|timer)", re.IGNORECASE
)
_COMMANDS = ("git", "hg", "svn")  # git@github.com:owner/name

# A candidate for one number: at least 8 digits, with at most a sign, a space or a bracket between two of them.
# It begins at a digit and is possessive, so the time is linear for any text.
_RUN = re.compile(r"[0-9០-៩](?:(?:[ .‐-–-]| ?\((?=[0-9០-៩]{1,4}\))|\)[ -]?)?[0-9០-៩]){7,}+")
_LONGEST_RUN = 80
_LEAD = re.compile(r"\(?\+\(?\Z|\(\Z")
_PLAIN = str.maketrans("០១២៣៤៥៦៧៨៩‐‑‒–()", "0123456789----  ")

# Forms of numbers, after Khmer digits, dashes and brackets are replaced: "+(855) 12-345-678" is "+855 12-345-678".
_CAMBODIAN = (  # numbers of Thailand, Laos and Vietnam have the same forms
    r"(?:\+|00 ?)855[ .-]?(?:0[ .-]?)?[1-9](?:[ .-]?\d){7,8}"
    r"|855[ -][1-9]\d[ .-]\d{3}[ .-]?\d{3,4}"
    r"|0[1-9]\d{7,8}"
    r"|0[1-9]\d[ .-](?:\d{3}[ .-]?\d{3,4}|\d{2}[ .-]\d{2}[ .-]\d{2,3}|\d{2,3}[ .-]\d{2,3}[ .-]\d{2}|\d{4}[ .-]\d{2,3})"
    r"|0[1-9]\d[ .-]\d{2}[ .-]\d{3}[ .-]\d{3}"
    r"|0[1-9]\d[ -](?:\d{5}|\d{2}[ -]\d{3}|\d{3}[ -]\d{2})"
    r"|0[1-9]\d\d[ .-]\d{3}[ .-]\d{3}"
)
_CODE = (  # country codes (ITU-T E.164) except 855, and except 1 and 7, whose numbers all have ten digits
    r"(?:2(?:[07]|1[1-368]|[2-6]\d|9[01789])|3(?:[0-469]|[578]\d)|4(?:[013-9]|2\d)|5(?:[1-8]|[09]\d)|6(?:[0-6]|[7-9]\d)"
    r"|8(?:[1246]|5[0-46-9]|[078]\d)|9(?:[0-58]|[679]\d))"
)
_INTERNATIONAL = (
    r"\+[17](?:[ .-]?\d){10}"
    rf"|(?:\+|00(?=\d{{1,3}}[ .-])){_CODE}[ .-]?(?:0[ .-]?)?[1-9](?:[ .-]?\d){{6,11}}"
)
_AREA = r"[2-9]\d\d"  # an area code, or the three digits after it, in the North American plan
_AMERICAN = rf"(?:1[ .-])?{_AREA}([.-]){_AREA}\1\d{{4}}"
_BRITISH = r"0[1-9]\d[ -]\d{4}[ -]\d{4}|0[1-9]\d{3} \d{6}"
_SHAPE = re.compile(
    rf"{_AMERICAN}|{_BRITISH}|{_INTERNATIONAL}|(?:{_INTERNATIONAL}|{_CAMBODIAN})(?:[ -](?:{_CAMBODIAN})){{0,3}}"
)
_BRACKETED = re.compile(rf"(?:1[ .-])?{_AREA} {_AREA}[ .-]\d{{4}}")  # (555) 123-4567
_ANNOUNCED = re.compile(r"(?!(?:19|20)\d\d[ .-])\+?\d{1,5}(?:[ .-]?\d{1,8}){1,6}")  # not a date
_ANNOUNCEMENT = re.compile(
    r"(?:\b(?:tel(?:ephone)?|(?:tele|mobile |cell)?phone|mobile|cell|fax|hotline|whatsapp)"
    r"|ទូរស័ព្ទ(?:ដៃ)?|ទូរសព្ទ(?:ដៃ)?|ទូរសារ)(?: (?:no|number))? ?[.:៖#]{1,2} ?\(?\Z",
    re.IGNORECASE,
)
# Text next to digits that are not a telephone number: the rest of a word, an address, a formula or a longer number; or a
# word that names something else.
_NOT_BEFORE = re.compile(
    r"(?:[A-Za-z0-9_$€£¥៛#@&=%~^\\*`]|\d[.,:/]|[A-Za-z]\.|[A-Za-z0-9_.%&=~-]/|[A-Za-z]-|\b(?:ISBN|ID)\W{0,3})\Z"
)
_NOT_AFTER = re.compile(r"[A-Za-z_$€£¥%°*^=]|[.,:]\d{1,2}(?![\d(+])|[-/][A-Za-z]| ?(?:៛|រៀល|ដុល្លារ)")


@dataclass(frozen=True)
class Redaction:
    """What `redact` replaces: the keys under `redact:` in a sources file. Raises `UserError` for other values."""

    email: bool = True  # e-mail addresses
    phone: bool = True  # telephone numbers

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool):
                raise UserError(f"redact: {field.name} is {value!r}; it must be one of: true, false")


DEFAULT = Redaction()


def redact(text: str, settings: Redaction = DEFAULT) -> tuple[str, int]:
    """Replaces e-mail addresses by `EMAIL` and telephone numbers by `PHONE`; returns the text and the number of replacements.

    A second call changes nothing more. Addresses are found in ASCII. Numbers may be in Arabic or Khmer digits: international
    numbers, Cambodian numbers and others of the same form (0xx xxx xxx), American numbers with brackets or signs, and any 8 to
    15 digits after a word such as "Tel:". Several numbers with only a space between them count as one.
    """
    count = 0
    if settings.email and "@" in text:
        text, count = _replaced(text, _emails(text), EMAIL)
    if settings.phone:
        text, phones = _replaced(text, _phones(text), PHONE)
        count += phones
    return text, count


def _replaced(text: str, spans: Iterator[tuple[int, int]], placeholder: str) -> tuple[str, int]:
    parts, done = [], 0
    for start, end in spans:
        parts += [text[done:start], placeholder]
        done = end
    return ("".join([*parts, text[done:]]), len(parts) // 2) if parts else (text, 0)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    done = 0
    for domain in _DOMAIN.finditer(text):
        at, end = domain.span()
        before = text[max(done, at - _LONGEST_LOCAL - 1) : at]
        local = before[len(before.rstrip(_LOCAL)) :].lstrip(".-%+")
        if 0 < len(local) <= _LONGEST_LOCAL:
            done = end
            if local not in _COMMANDS and not _RESERVED.fullmatch(domain[0]):
                yield at - len(local), end


def _phones(text: str) -> Iterator[tuple[int, int]]:
    done = -1
    for run in _RUN.finditer(text):
        start, end = run.span()
        if end - start > _LONGEST_RUN:
            continue
        number = re.sub("[ -]{2,}", " ", run[0].translate(_PLAIN))
        bracketed = "(" in run[0]
        closed = run[0].count(")") - run[0].count("(")  # closing brackets without an opening one
        lead = _LEAD.search(text, max(start - 3, 0), start)
        if lead is not None and "+" in lead[0]:
            number = "+" + number
            around = lead[0].startswith("(") and closed <= lead[0].endswith("(")
            start = lead.start() + around
        elif lead is not None and closed > 0:
            start, bracketed = start - 1, True
        in_list = done == start - 1 and text[done] in ",/"  # 012 345 678/098 765 432
        announced = _ANNOUNCEMENT.search(text, max(start - 40, 0), start) is not None
        alone = announced or in_list or not _NOT_BEFORE.search(text, max(start - 8, 0), start)
        if alone and not _NOT_AFTER.match(text, end) and _is_phone(number, bracketed, announced):
            yield start, end
            done = end


def _is_phone(number: str, bracketed: bool, announced: bool) -> bool:
    digits = re.sub(r"\D", "", number)
    if set(digits) <= {"0", "1"} or number == "0123456789" or PHONE in number:
        return False  # binary; the list of all digits; the placeholder itself
    if all(group[0] == "0" for group in number.split()) and " " in number and not announced:
        return False  # 010 011 012
    if announced and len(digits) <= 15 and _ANNOUNCED.fullmatch(number):
        return True
    return bool(_SHAPE.fullmatch(number) or (bracketed and _BRACKETED.fullmatch(number)))
