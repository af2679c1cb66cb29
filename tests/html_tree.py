"""A page of HTML as a tree, for tests that look at what a reader would see."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "hr", "img"}
INLINE = {"a", "b", "code", "span", "strong"}
SILENT = {"script", "style", "title"}
"""Elements whose text nobody sees on the page."""


@dataclass
class Node:
    tag: str
    attributes: dict = field(default_factory=dict)
    children: list = field(default_factory=list)

    def __iter__(self):
        """All elements below, in the order of the page."""
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child

    def all(self, tag, **attributes):
        """The elements of a kind below this one, with these attributes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [each for each in self if each.tag == tag and wanted.items() <= each.attributes.items()]

    def id(self, name):
        """The one element with an id."""
        (found,) = [each for each in self if each.attributes.get("id") == name]
        return found

    @property
    def text(self):
        """What is seen of it, with single spaces."""
        return " ".join(self.words().split())

    def words(self):
        """The same, with a space between blocks."""
        inside = "".join(child if isinstance(child, str) else child.words() for child in self.children)
        return "" if self.tag in SILENT else inside if self.tag in INLINE else f" {inside} "

    @property
    def source(self):
        """The text as it stands, also that of a script."""
        return "".join(child if isinstance(child, str) else child.source for child in self.children)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = [Node("document")]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read(html):
    """The tree of a page; fails where an element is not closed."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert [node.tag for node in reader.open] == ["document"]
    return reader.open[0]


def rows_of(table):
    """A table as dictionaries of texts."""
    heads = [head.text for head in table.all("thead")[0].all("th")]
    rows = [[cell.text for cell in row.children if isinstance(cell, Node)] for row in table.all("tbody")[0].all("tr")]
    return [dict(zip(heads, row, strict=True)) for row in rows]
