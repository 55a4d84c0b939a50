"""The documents of S3: their bytes are not trusted, so a document type, which could define entities, is refused."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

ERROR_BYTES_MAX: Final = 64 << 10
"""The most that is read of the document of an error."""


class NoDocument(Exception):
    """The bytes are no document of S3."""


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, *_declared: object) -> None:
        raise NoDocument("it has a document type")


def parsed(body: bytes | bytearray) -> Element:
    """The root of a document. Raises `NoDocument`."""
    try:
        return ElementTree.fromstring(body, ElementTree.XMLParser(target=_Builder()))  # noqa: S314 - see the module
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two for its encoding
        raise NoDocument(str(error)) from error


def local(element: Element) -> str:
    """A tag without its namespace, which compatible stores leave out."""
    return element.tag.rpartition("}")[2]


def child_text(element: Element, name: str) -> str:
    """The text of the first child of that name, or nothing."""
    return next((found.text or "" for found in element if local(found) == name), "")


def text_below(element: Element, name: str) -> str:
    """The same of the first element of that name at any depth."""
    return next((found.text or "" for found in element.iter() if local(found) == name), "")
