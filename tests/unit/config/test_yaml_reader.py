"""YAML is read in time and memory that grow with its size, and never so deep that Python's recursion ends it."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import ParallelRunConfig
from prefect_parallel_run.config.yaml_reader import UnreadableYamlError, compose, read_document, read_value

NESTED = {
    "lists": lambda depth: "[" * depth + "]" * depth,
    "mappings": lambda depth: "{a: " * depth + "1" + "}" * depth,
    "keys": lambda depth: "{? " * depth + "1" + "}" * depth,
    "lines of brackets": lambda depth: "[\n" * depth + "]" * depth,
    "dashes": lambda depth: "- " * depth + "1",
    "indentation": lambda depth: "".join(f"{' ' * level}a:\n" for level in range(depth)) + f"{' ' * depth}1",
    "question marks": lambda depth: "? " * depth + "1",
    "open brackets": lambda depth: "[" * depth,
}
CHAIN = "".join(["- &a0 [1]\n", *(f"- &a{number} [*a{number - 1}]\n" for number in range(1, 20_000))])


def depth_of(text):
    """As PyYAML itself would have it."""
    deepest = depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        deepest = max(deepest, depth)
    return deepest


@pytest.mark.parametrize("way", NESTED)
def test_more_than_100_levels_are_refused(way):
    """For every kind of nesting; 20,000 levels are refused as fast as 101."""
    if way != "open brackets":
        assert depth_of(NESTED[way](100)) == 100
        assert compose(NESTED[way](100), aliases=True) is not None
    for depth in (101, 1_000 if way == "indentation" else 20_000):
        with pytest.raises(
            UnreadableYamlError, match="mappings and lists are nested in more than 100 levels; reduce the nesting"
        ):
            compose(NESTED[way](depth), aliases=True)


def test_levels_behind_aliases_count():
    """The constructed values are as deep as without aliases."""
    with pytest.raises(UnreadableYamlError, match="line 100: mappings and lists are nested in more than 100 levels"):
        compose(CHAIN, aliases=True)
    assert compose("".join(CHAIN.splitlines(keepends=True)[:99]), aliases=True) is not None
    with pytest.raises(UnreadableYamlError, match=r"line 2: \*a contains itself"):
        compose("&a\n- *a\n", aliases=True)
    with pytest.raises(UnreadableYamlError, match="line 2: aliases are not accepted"):
        compose("- &a 1\n- *a\n", aliases=False)


def test_every_file_is_read_that_way(tmp_path):
    """Configurations, values of options, files of Azure; the error names the file."""
    path = tmp_path / "deep.yml"
    for nested in (way(500) for way in NESTED.values()):
        path.write_text(f"parallel_run_config:\n {nested}" if nested[0] in "[{" else nested)
        with pytest.raises(ValueError, match=r"deep\.yml, line .*: mappings and lists are nested in more than 100 levels"):
            ParallelRunConfig.load_yaml(path)
        with pytest.raises(ValueError, match=r"deep\.yml, line .*: mappings and lists are nested in more than 100 levels"):
            read_document(path)
        with pytest.raises(ValueError, match="--set x: mappings and lists are nested in more than 100 levels"):
            read_value(nested, "--set x")
    path.write_text(CHAIN)
    with pytest.raises(ValueError, match=r"deep\.yml, line 100: mappings and lists are nested"):
        read_document(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(values)
def test_nodes_are_those_of_pyyaml(value):
    """Aliases among them, which dumping writes for a value that stands there twice."""
    text = yaml.safe_dump([value, value, {"a": value}])
    expected = yaml.compose(text, Loader=yaml.SafeLoader)
    assert yaml.serialize(compose(text, aliases=True)) == yaml.serialize(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", "line 2: not YAML: "),
        ("a: \x01", "line 1: not YAML: "),
        ("a: 1\n--- \nb: 2", "not YAML: but found another"),
    ],
)
def test_invalid_yaml_is_an_error_with_its_line(text, message):
    """All kinds of invalid text raise the same error."""
    with pytest.raises(UnreadableYamlError, match=message):
        compose(text, aliases=True)


@pytest.mark.parametrize("text", ["!!int 'x'", "!!float x", "!!bool maybe"])
def test_a_tag_before_another_value_is_an_error_with_its_line(tmp_path, text):
    """PyYAML would raise an error without file and line."""
    path = tmp_path / "a.yml"
    path.write_text(f"parallel_run_config:\n  description: {text}\n")
    for read in (ParallelRunConfig.load_yaml, read_document):
        with pytest.raises(ValueError, match=r"a\.yml, line 2: "):
            read(path)


def test_other_encodings_are_errors_with_the_file(tmp_path):
    """Files are UTF-8."""
    path = tmp_path / "a.yml"
    path.write_bytes("parallel_run_config: {description: é}\n".encode("latin-1"))
    for read in (ParallelRunConfig.load_yaml, read_document):
        with pytest.raises(ValueError, match=r"a\.yml, line 1: not YAML: "):
            read(path)


def test_an_empty_document_has_no_node():
    """Nor has one with only comments."""
    assert compose("# nothing\n", aliases=True) is None
