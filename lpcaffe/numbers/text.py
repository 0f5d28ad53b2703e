"""Number formats from text and from what a plan holds: `parse_format` reads what `str()` and `to_plain()` write.

    Q2.14
    q8[7,8,7]                           {bits: 8, ad: [7, 8, 7]}
    affine(4,0.01,7,signed,ties=away)   {bits: 4, scale: 0.01, zero: 7, signed: true, ties: away}
    minifloat(4,3)/ristretto
    e4m3fn
    pow2z(-8,-1,scale=[0.1,0.2])        {pow2z: [-8, -1], scale: [0.1, 0.2], rule: ...}
    codebook(-0.5,0,0.5,scale=0.1)      {codebook: [-0.5, 0, 0.5], scale: 0.1}

A number in brackets may be a list of them, one a channel. Spaces between the parts do not count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lpcaffe.errors import FormatError
from lpcaffe.numbers.affine import DEFAULTS, Affine
from lpcaffe.numbers.channels import ChannelQFormat
from lpcaffe.numbers.codebook import MAX_VALUES, Codebook
from lpcaffe.numbers.minifloat import Minifloat
from lpcaffe.numbers.number_format import NumberFormat, is_vector, short
from lpcaffe.numbers.ocp_float import KINDS, OcpFloat
from lpcaffe.numbers.power_of_two import PowerOfTwo
from lpcaffe.numbers.qformat import QFormat

KNOWN = "Q2.14, q8[7,8], affine(4,0.01,7), minifloat(4,3), e4m3fn, pow2(-8,-1), codebook(-0.5,0,0.5)"

_CALL = re.compile(r"([a-z0-9]+)\s*\((.*)\)\s*(?:/\s*([a-z]+))?", re.DOTALL)
_PER_CHANNEL = re.compile(r"q([0-9]{1,6})\s*(\[.*\])", re.DOTALL)
_LIST = re.compile(r"\[([^\[\]]*)\]")
_WORD = re.compile(r"[a-z]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,60})?|\.[0-9]{1,60})(?:[eE][+-]?[0-9]{1,3})?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")


def parse_format(given: Any) -> NumberFormat:
    """The format of a text or a mapping. Raises FormatError with what was expected, and what it got."""
    if isinstance(given, str):
        return _from_text(given)
    if isinstance(given, Mapping):
        return _from_mapping(given)
    raise FormatError(f"expected a format such as {KNOWN} or a mapping, got {short(given)}")


def _from_text(text: str) -> NumberFormat:
    word = text.strip()
    if word in KINDS:
        return OcpFloat(word)
    if match := _PER_CHANNEL.fullmatch(word):
        return ChannelQFormat(int(match[1]), _value(match[2].replace(",", ";")))
    if match := _CALL.fullmatch(word):
        if match[1] in _CALLS:
            return _called(match[1], *_arguments(match[2]), match[3] or "")
    elif word[:1] in ("Q", "q"):
        return QFormat.parse(word)
    raise FormatError(f"expected a format such as {KNOWN}, got {short(text)}")


def _called(name: str, values: list[Any], options: dict[str, Any], rule: str) -> NumberFormat:
    """The format that `name(values, options)/rule` stands for."""
    make, counts, known, has_rules = _CALLS[name]
    if len(values) not in counts:
        count = " or ".join(str(count) for count in {counts.start: 0, counts.stop - 1: 0})
        raise FormatError(f"{name}: expected {count} numbers or lists, got {len(values)}")
    unknown = [key for key in options if key not in known]
    if unknown:
        raise FormatError(f"{name}: expected the options {', '.join(known) or 'none'}, got {short(unknown[0])}")
    if rule and not has_rules:
        raise FormatError(f"{name}: expected no rule, got {short(rule)}")
    return make(*values, **options, **({"rule": rule} if has_rules else {}))


def _codebook(*values: Any, scale: Any = 1.0) -> Codebook:
    return Codebook(values, scale)


def _pow2z(lo: Any, hi: Any, **options: Any) -> PowerOfTwo:
    return PowerOfTwo(lo, hi, zero=True, **options)


# Name -> what makes the format, how many numbers it takes, its options, and whether it has rules.
_CALLS: dict[str, tuple[Callable[..., NumberFormat], range, tuple[str, ...], bool]] = {
    "affine": (Affine, range(2, 4), ("signed", "ties"), False),
    "minifloat": (Minifloat, range(2, 3), (), True),
    "pow2": (PowerOfTwo, range(2, 3), ("scale",), True),
    "pow2z": (_pow2z, range(2, 3), ("scale",), True),
    "codebook": (_codebook, range(MAX_VALUES + 1), ("scale",), False),
}


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Numbers and lists, and options: `key=value`, or a word alone, which is true."""
    values: list[Any] = []
    options: dict[str, Any] = {}
    for part in _LIST.sub(lambda found: found[0].replace(",", ";"), text).split(",") if text.strip() else ():
        key, equals, word = (piece.strip() for piece in part.partition("="))
        if not equals and not _WORD.fullmatch(key):
            values.append(_value(key))
        elif key in options:
            raise FormatError(f"expected {short(key)} once, got it twice")
        else:
            options[key] = _option(word) if equals else True
    return values, options


def _option(word: str) -> Any:
    """The value of an option: a word, or numbers."""
    return word if _WORD.fullmatch(word) else _value(word)


def _value(word: str) -> Any:
    """A number, or a list of them, which semicolons part here."""
    if match := _LIST.fullmatch(word):
        return [_number(item.strip()) for item in match[1].split(";")] if match[1].strip() else []
    return _number(word)


def _number(word: str) -> int | float:
    if _INTEGER.fullmatch(word):
        return int(word)
    if _NUMBER.fullmatch(word):
        return float(word)
    raise FormatError(f"expected a number, got {short(word)}")


def _from_mapping(given: Mapping[Any, Any]) -> NumberFormat:
    """The format of the mapping whose keys are those of one kind."""
    for need, (make, may) in _MAPPINGS.items():
        if all(key in given for key in need):
            unknown = [key for key in given if key not in need and key not in may]
            if unknown:
                known = ", ".join((*need, *may))
                raise FormatError(f"expected the keys {known}, got {short(unknown[0])} besides")
            return make(**given)
    raise FormatError("expected the keys bits and ad, bits and scale, codebook, or pow2, got " + short(list(given)))


def _powers(zero: bool, exponents: Any, options: dict[str, Any]) -> PowerOfTwo:
    if not is_vector(exponents) or len(exponents) != 2:
        raise FormatError(f"pow2: expected the exponents [lo, hi], got {short(exponents)}")
    return PowerOfTwo(exponents[0], exponents[1], zero=zero, **options)


# Keys that a mapping must have -> what makes the format, and keys that it may have.
_MAPPINGS: dict[tuple[str, ...], tuple[Callable[..., NumberFormat], tuple[str, ...]]] = {
    ("bits", "ad"): (ChannelQFormat, ()),
    ("bits", "scale"): (Affine, ("zero", *DEFAULTS)),
    ("codebook",): (lambda codebook, scale=1.0: Codebook(codebook, scale), ("scale",)),
    ("pow2",): (lambda pow2, **options: _powers(False, pow2, options), ("scale", "rule")),
    ("pow2z",): (lambda pow2z, **options: _powers(True, pow2z, options), ("scale", "rule")),
}
