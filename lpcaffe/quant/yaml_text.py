"""YAML as a plan needs it: names stay text, each key comes once, and what a few lines can stand for is bounded.

Numbers are those of JSON too: YAML 1.1 takes 1e-08, without a point, for text.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any, NoReturn

# Characters of a name or value. PyYAML's integers of base 60 take quadratic time.
MAX_SCALAR = 1 << 16

# Entries that merge keys (`<<: *alias`) may add to all mappings together: what merges merged ones twice doubles them.
MAX_MERGED = 10_000


def short(value: Any) -> str:
    """A value in an error message. A few lines of YAML can stand for gigabytes of it."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def scalar(text: str) -> str:
    """A YAML string, quoted where it would not be read back as the same string."""
    import yaml

    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30).rstrip("\n")


def strict_loader() -> Any:
    """YAML's safe loader, with the keys of a mapping as they are written, and each of them once.

    YAML would read the layer names `on` and `1` as a boolean and a number, and let the second of two lines of one layer
    win.
    """
    import yaml

    def refuse(node: Any, problem: str) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    class Loader(yaml.SafeLoader):
        merged = 0

        def compose_scalar_node(self, anchor: Any) -> Any:
            node = super().compose_scalar_node(anchor)
            if len(node.value) > MAX_SCALAR:
                refuse(node, f"expected at most {MAX_SCALAR} characters in a value, got {len(node.value)}")
            if any("\ud800" <= char <= "\udfff" for char in node.value):
                refuse(node, "expected text, got half a surrogate pair")
            return node

        def flatten_mapping(self, node: Any) -> None:
            """Check the keys of a mapping, and put what its merge keys stand for in front of them: its own keys win."""
            own: dict[str, Any] = {}
            merged: dict[str, Any] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    refuse(key, "expected a name as the key")
                if key.value in own:
                    refuse(key, f'"{short(key.value)[1:-1]}" is given twice')
                own[key.value] = key, value
            for name, (key, value) in list(own.items()):
                if key.tag != "tag:yaml.org,2002:merge":
                    continue
                del own[name]
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(part, yaml.MappingNode):
                        refuse(part, "expected a mapping to merge")
                    self.flatten_mapping(part)
                    self.merged += len(part.value)
                    if self.merged > MAX_MERGED:
                        refuse(part, f"expected at most {MAX_MERGED} merged entries, got more")
                    for entry in part.value:
                        merged.setdefault(entry[0].value, entry)  # of several, the first wins
            node.value = list((merged | own).values())

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            if not isinstance(node, yaml.MappingNode):
                refuse(node, "expected a mapping")
            self.flatten_mapping(node)  # <<: *alias
            return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
    return Loader
