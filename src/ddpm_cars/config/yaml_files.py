"""Files of settings, read with the line of every setting."""

from pathlib import Path

import yaml

from ddpm_cars.config.values import Written
from ddpm_cars.errors import UserError

# The settings, a list and what it holds, and some more, of which the setting says that it does not fit.
_MAX_DEPTH = 4


def read_yaml(path: str) -> dict[str, Written]:
    """Return the settings in a YAML file, or in a pipe.

    Raises:
        UserError: If it cannot be read, is not YAML, does not hold settings, holds one twice, or has what no setting
            needs: a tag, a list within lists, or a list that stands elsewhere.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        node = _compose(text)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; save it as such") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        what = ":" if isinstance(error, _Needless) else " is not YAML:"
        raise UserError(f"{path}{line}{what} {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "one value"
        raise UserError(f"{path} holds {kind}; write one setting a line, such as resolution: 64")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name, line = _name(key, text), key.start_mark.line + 1
        if name in lines:
            raise UserError(f"{path}, line {line}: {name} is there twice, first in line {lines[name]}; remove one")
        lines[name] = line
    return {_name(key, text): _as_written(value, text, path, key.start_mark.line + 1) for key, value in node.value}


def read_list(text: str) -> Written:
    """Return a list in brackets, "[1, 2]"; if it is none, the text."""
    try:
        node = _compose(text)
    except yaml.YAMLError:
        node = None
    return _as_written(node, text, "", 0) if isinstance(node, yaml.SequenceNode) else Written(text)


class _Needless(yaml.MarkedYAMLError):
    """What YAML has and no setting needs: it could stand for something else than it says, or for too much."""


def _compose(text: str) -> yaml.Node | None:
    """Return the node of a YAML text. Raises `yaml.YAMLError`."""
    depth, scalars = 0, set()
    for event in yaml.parse(text, yaml.SafeLoader):
        problem, tag = None, getattr(event, "tag", None)
        if isinstance(event, yaml.AliasEvent) and event.anchor not in scalars:
            # Lists of lists of aliases are written in ten lines, and are longer than any memory.
            problem = f"*{event.anchor} stands for no single value; write it out"
        if tag is not None:
            problem = f"the tag {tag} has no meaning here; remove it"
        if isinstance(event, yaml.ScalarEvent):
            scalars.add(event.anchor)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            problem = "no setting is a list within lists; remove the outer brackets"
        if problem is not None:
            raise _Needless(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]
    node: yaml.Node | None = yaml.SafeLoader(text).get_single_node()
    return node


def _name(key: yaml.Node, text: str) -> str:
    return key.value if isinstance(key, yaml.ScalarNode) else text[key.start_mark.index : key.end_mark.index]


def _as_written(node: yaml.Node, text: str, path: str, line: int) -> Written:
    place = f"{path}, line {line}: " if path else ""
    if isinstance(node, yaml.ScalarNode):
        return Written(node.value, is_quoted=node.style is not None, place=place)
    source = " ".join(text[node.start_mark.index : node.end_mark.index].split())
    if isinstance(node, yaml.SequenceNode):
        items = tuple(_as_written(item, text, path, item.start_mark.line + 1) for item in node.value)
        return Written(source, items, place=place)
    return Written(source, is_mapping=True, place=place)
