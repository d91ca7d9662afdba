"""Directives that write the reference from the code, so that it can't lag behind.

    {option-table} module:Options        the options of one class
    {plugin-reference} family            every plugin of ours in a family, each with its options
    {schema-table} module:Schema         the fields of one message or payload
    {request-reference}                  every message but `event`, with its answer and its fields
    {error-codes}                        the codes of `error` messages
    {close-codes}, {event-types}         what the code lists; the words stand in the directive's body
    {exception-reference}                every exception of ours, with its code and exit code
    {command-reference} module:command   every command of a click group

`testorch_code` reads the code; here it is only drawn. Where words are written by hand (close codes, event types), a
missing or a superfluous entry is a warning, which fails the build.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, Final

from docutils import nodes
from marshmallow import Schema
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from testorch_code import (
    CommandPage,
    close_codes,
    command_pages,
    event_schema,
    event_types,
    exception_classes,
    imported,
    option_rows,
    our_plugins,
    requests,
    schema_rows,
    slug,
)


def inline(text: str) -> list[nodes.Node]:
    """Text with `code` between backquotes."""
    parts = text.split("`")
    return [
        nodes.literal(part, part) if index % 2 else nodes.Text(part)
        for index, part in enumerate(parts)
        if part or index % 2
    ]


def paragraph(text: str) -> nodes.paragraph:
    return nodes.paragraph("", "", *inline(text))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> nodes.table:
    """A table whose cells are texts with code between backquotes."""
    group = nodes.tgroup(cols=len(heads))
    group += [nodes.colspec(colwidth=width) for width in widths]
    group += nodes.thead("", _table_row(heads))
    group += nodes.tbody("", *(_table_row(row) for row in rows))
    return nodes.table("", group, classes=["colwidths-given"])


def _table_row(cells: Sequence[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", paragraph(cell)) for cell in cells))


def option_table(options_type: Any) -> nodes.Node:
    rows = option_rows(options_type)
    if not rows:
        return paragraph("It has no options.")
    cells = ((f"`{row.name}`", row.kind, row.default, row.help) for row in rows)
    return table(("option", "type", "default", "what it does"), cells, (22, 25, 15, 38))


def schema_table(schema: Schema) -> nodes.Node:
    rows = schema_rows(schema)
    cells = ((f"`{row.name}`", row.kind, row.default) for row in rows)
    return table(("field", "type", ""), cells, (25, 60, 15))


def sentences(docstring: str | None) -> list[nodes.Node]:
    """The paragraphs of a docstring."""
    text = inspect.cleandoc(docstring or "")
    return [paragraph(" ".join(part.split())) for part in text.split("\n\n") if part.strip()]


class ReferenceDirective(SphinxDirective):
    """What all of them share."""

    has_content = False

    def section(self, title: str, label: str, *content: nodes.Node) -> nodes.section:
        """A section that `{ref}` finds under its label."""
        section = nodes.section("", nodes.title("", "", *inline(title)), *content, ids=[label], names=[label])
        self._announce(label, title.replace("`", ""))
        return section

    def _announce(self, label: str, title: str) -> None:
        standard = self.env.domains.standard_domain
        standard.anonlabels[label] = (self.env.docname, label)
        standard.labels[label] = (self.env.docname, label, title)

    def target(self, label: str, title: str) -> nodes.target:
        """A place without a heading that `{ref}` finds under its label."""
        self._announce(label, title)
        return nodes.target("", "", ids=[label])

    def note_dependency_on(self, *modules: str) -> None:
        """Build the page again when one of these changes."""
        for name in modules:
            file = getattr(import_module(name), "__file__", None)
            if file is not None:
                self.env.note_dependency(file)


class OptionTable(ReferenceDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        options_type = imported(self.arguments[0])
        self.note_dependency_on(options_type.__module__)
        return [option_table(options_type)]


class PluginReference(ReferenceDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        family = self.arguments[0]
        return [self._plugin(family, name, found) for name, found in our_plugins(family)]

    def _plugin(self, family: str, name: str, found: Any) -> nodes.Node:
        self.note_dependency_on(found.__module__, found.options_type.__module__)
        about = (paragraph(f"{found.summary[:1].upper()}{found.summary[1:]}."), *sentences(found.__doc__))
        return self.section(f"`{name}`", f"plugin-{family}-{slug(name)}", *about, option_table(found.options_type))


class SchemaTable(ReferenceDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        schema = imported(self.arguments[0])
        self.note_dependency_on(schema.__module__)
        return [schema_table(schema())]


class RequestReference(ReferenceDirective):
    def run(self) -> list[nodes.Node]:
        self.note_dependency_on("testorch_core.protocol", "testorch_core.router")
        return [self._request(kind, *facts) for kind, facts in requests().items()]

    def _request(self, kind: str, answer: str | None, schema: Schema) -> nodes.Node:
        answered = f"Answered by `{answer}`." if answer else "Not answered when all is well."
        content = (*sentences(type(schema).__doc__), paragraph(answered), schema_table(schema))
        return self.section(f"`{kind}`", f"message-{slug(kind)}", *content)


class ErrorCodes(ReferenceDirective):
    def run(self) -> list[nodes.Node]:
        self.note_dependency_on("testorch_core.protocol")
        codes = import_module("testorch_core.protocol").ERROR_CODES
        drawn = table(("code", "meaning"), ((f"`{code}`", words) for code, words in codes.items()), (25, 75))
        for row, code in zip(drawn.findall(nodes.row), [None, *codes], strict=True):
            if code is not None:
                row[0].insert(0, self.target(f"code-{slug(code)}", code))
        return [drawn]


class Explained(ReferenceDirective):
    """A list that the code keeps, with words that stand in the directive's body as `name: words` lines."""

    has_content = True
    what: ClassVar[str]

    def words(self, known: Iterable[Any]) -> dict[str, str]:
        given: dict[str, str] = {}
        for line in self.content:
            name, _, words = line.partition(": ")
            if name.strip():
                given[name.strip()] = words.strip()
        listed = [str(one) for one in known]
        for name in listed:
            if not given.get(name):
                self._warn(f"{self.what} `{name}` is in the code and has no words here")
        for name in given.keys() - set(listed):
            self._warn(f"{self.what} `{name}` has words here and is not in the code")
        return {name: given.get(name, "") for name in listed}

    def _warn(self, message: str) -> None:
        self.state.document.reporter.warning(message, line=self.lineno)


class CloseCodes(Explained):
    what = "close code"

    def run(self) -> list[nodes.Node]:
        self.note_dependency_on("testorch_core.protocol")
        words = self.words(sorted(close_codes()))
        return [table(("code", "meaning"), ((f"`{code}`", text) for code, text in words.items()), (15, 85))]


class EventTypes(Explained):
    what = "event type"

    def run(self) -> list[nodes.Node]:
        self.note_dependency_on("testorch_core.events", "testorch_plugins.security.event_validation.schemas")
        senders = event_types()
        words = self.words(senders)
        rows = ((f"`{kind}`", text, senders[kind]) for kind, text in words.items())
        return [table(("type", "meaning", "who may send it"), rows, (30, 50, 20)), *self._payloads(senders)]

    def _payloads(self, kinds: Iterable[str]) -> Iterator[nodes.Node]:
        by_schema: dict[type[Schema], list[str]] = {}
        for kind in kinds:
            schema = event_schema(kind)
            if schema is not None:
                by_schema.setdefault(type(schema), []).append(kind)
        for schema_type, sharing in by_schema.items():
            title = " and ".join(f"`{kind}`" for kind in sharing)
            content = (*sentences(schema_type.__doc__), schema_table(schema_type()))
            yield self.section(title, f"event-{slug(sharing[0])}", *content)


class ExceptionReference(ReferenceDirective):
    def run(self) -> list[nodes.Node]:
        found = exception_classes()
        self.note_dependency_on(*{one.__module__ for one in found})
        return [self._exception(one) for one in found]

    def _exception(self, kind: Any) -> nodes.Node:
        facts = f"Code `{kind.code}`, exit code `{kind.exit_code}`; in `{kind.__module__}`."
        content = (paragraph(facts), *sentences(kind.__doc__))
        return self.section(f"`{kind.__name__}`", f"exception-{slug(kind.__name__)}", *content)


class CommandReference(ReferenceDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        group = imported(self.arguments[0])
        self.note_dependency_on(self.arguments[0].partition(":")[0])
        return [self._command(page) for page in command_pages(group)]

    def _command(self, page: CommandPage) -> nodes.Node:
        content: list[nodes.Node] = [nodes.literal_block(page.usage, page.usage), *sentences(page.help)]
        if page.parameters:
            rows = ((f"`{row.name}`", row.default, row.help) for row in page.parameters)
            content.append(table(("", "default", "what it does"), rows, (35, 15, 50)))
        return self.section(f"`{page.name}`", f"command-{slug(page.name)}", *content)


DIRECTIVES: Final[Mapping[str, type[ReferenceDirective]]] = {
    "option-table": OptionTable,
    "plugin-reference": PluginReference,
    "schema-table": SchemaTable,
    "request-reference": RequestReference,
    "error-codes": ErrorCodes,
    "close-codes": CloseCodes,
    "event-types": EventTypes,
    "exception-reference": ExceptionReference,
    "command-reference": CommandReference,
}


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    for name, directive in DIRECTIVES.items():
        app.add_directive(name, directive)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
