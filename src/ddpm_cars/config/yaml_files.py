"""Files of settings, read with the line of every setting."""

from pathlib import Path

import yaml

from ddpm_cars.config.values import Written
from ddpm_cars.errors import UserError


def read_yaml(path: str) -> dict[str, Written]:
    """Return the settings in a YAML file, or in a pipe.

    Raises:
        UserError: If it cannot be read, is not YAML, does not hold settings, or holds one twice.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; save it as such") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(f"{path}{line} is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "one value"
        raise UserError(f"{path} holds {kind}; write one setting a line, such as resolution: 64")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name, line = text[key.start_mark.index : key.end_mark.index], key.start_mark.line + 1
        if name in lines:
            raise UserError(f"{path}, line {line}: {name} is there twice, first in line {lines[name]}; remove one")
        lines[name] = line
    # Settings that a file takes over from another part of it, as <<.
    loader.flatten_mapping(node)
    return {str(key.value): _as_written(value, text, path, key.start_mark.line + 1) for key, value in node.value}


def read_list(text: str) -> Written:
    """Return a list in brackets, "[1, 2]"; if it is none, the text."""
    try:
        node = yaml.SafeLoader(text).get_single_node()
    except yaml.YAMLError:
        node = None
    return _as_written(node, text, "", 0) if isinstance(node, yaml.SequenceNode) else Written(text)


def _as_written(node: yaml.Node, text: str, path: str, line: int) -> Written:
    place = f"{path}, line {line}: "
    if isinstance(node, yaml.ScalarNode):
        return Written(node.value, is_quoted=node.style is not None, place=place)
    source = " ".join(text[node.start_mark.index : node.end_mark.index].split())
    if isinstance(node, yaml.SequenceNode):
        items = tuple(_as_written(item, text, path, item.start_mark.line + 1) for item in node.value)
        return Written(source, items, place=place)
    return Written(source, is_mapping=True, place=place)
