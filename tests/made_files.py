"""Small real files of many formats, written by hand, and what does harm in them."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
P = 'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    "A zip archive."
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def relations(*targets: tuple[str, str, str]) -> str:
    "A part that names others: (kind, target, mode)."
    rows = "".join(
        f'<Relationship Id="r{n}" Type="{RELATION}/{kind}" Target="{target}"{f" TargetMode={mode!r}" if mode else ""}/>' for n, (kind, target, mode) in enumerate(targets, start=1)
    )
    return f'<?xml version="1.0" encoding="UTF-8"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{rows}</Relationships>'


def office(main: str, kind: str, parts: Mapping[str, str | bytes]) -> bytes:
    "An Office file: its main part, the type of that, and all parts."
    types = (
        '<?xml version="1.0" encoding="UTF-8"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/{main}" ContentType="application/vnd.openxmlformats-officedocument.{kind}.main+xml"/></Types>'
    )
    return zipped({"[Content_Types].xml": types, "_rels/.rels": relations(("officeDocument", main, "")), **parts})


def docx(head: str = "", links: str = relations()) -> bytes:
    "A Word file with a heading in two levels, two paragraphs and a table; `head` stands before its root element."
    styles = f'<w:styles {W}>' + "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/><w:pPr><w:outlineLvl w:val="{n - 1}"/></w:pPr></w:style>' for n in (1, 2)
    ) + "</w:styles>"

    def paragraph(text: str, style: str = "") -> str:
        return f'<w:p>{f"<w:pPr><w:pStyle w:val={style!r}/></w:pPr>" if style else ""}<w:r><w:t>{text}</w:t></w:r></w:p>'

    rows = "".join("<w:tr>" + "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) + "</w:tr>" for row in (("Age", "Days"), ("under 50", "20"), ("50 or more", "25")))
    body = paragraph("Leave", "Heading1") + paragraph("Everybody needs rest.") + paragraph("How many days", "Heading2") + f"<w:tbl>{rows}</w:tbl>" + paragraph("&ask;" if head else "Ask your team.")
    document = f'<?xml version="1.0" encoding="UTF-8"?>{head}<w:document {W}><w:body>{body}</w:body></w:document>'
    parts = {"word/document.xml": document, "word/styles.xml": styles, "word/_rels/document.xml.rels": links.replace("</Relationships>", f'<Relationship Id="s1" Type="{RELATION}/styles" Target="styles.xml"/></Relationships>')}
    return office("word/document.xml", "wordprocessingml.document", parts)


def pptx(slides: Sequence[tuple[str, str]] = (("Leave", "Twenty days"), ("Travel", "By train"))) -> bytes:
    "A presentation: a title and a sentence a slide."
    listed = "".join(f'<p:sldId id="{256 + n}" r:id="r{n}"/>' for n in range(1, len(slides) + 1))
    parts: dict[str, str | bytes] = {
        "ppt/presentation.xml": f'<?xml version="1.0" encoding="UTF-8"?><p:presentation {P}><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>',
        "ppt/_rels/presentation.xml.rels": relations(*(("slide", f"slides/slide{n}.xml", "") for n in range(1, len(slides) + 1))),
    }
    for number, texts in enumerate(slides, start=1):
        shapes = "".join(
            f'<p:sp><p:nvSpPr><p:cNvPr id="{n}" name="s{n}"/><p:cNvSpPr/><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr><p:spPr/>'
            f"<p:txBody><a:bodyPr/><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"
            for n, (kind, text) in enumerate(zip(("title", "body"), texts, strict=True), start=2)
        )
        tree = f'<p:nvGrpSpPr><p:cNvPr id="1" name=""/><p:cNvGrpSpPr/><p:nvPr/></p:nvGrpSpPr><p:grpSpPr/>{shapes}'
        parts[f"ppt/slides/slide{number}.xml"] = f'<?xml version="1.0" encoding="UTF-8"?><p:sld {P}><p:cSld><p:spTree>{tree}</p:spTree></p:cSld></p:sld>'
    return office("ppt/presentation.xml", "presentationml.presentation", parts)


def rich_pptx() -> bytes:
    "A presentation with a list, a table, a chart, a picture and notes, and a slide without a title."

    def shape(kind: str, *paragraphs: tuple[int, str]) -> str:
        place = f'<p:ph type="{kind}"/>' if kind else ""
        texts = "".join(f'<a:p><a:pPr lvl="{level}"/><a:r><a:t>{text}</a:t></a:r></a:p>' for level, text in paragraphs)
        return f'<p:sp><p:nvSpPr><p:cNvPr id="9" name="s"/><p:cNvSpPr/><p:nvPr>{place}</p:nvPr></p:nvSpPr><p:spPr/><p:txBody><a:bodyPr/>{texts}</p:txBody></p:sp>'

    def page(root: str, shapes: str) -> str:
        return f'<?xml version="1.0" encoding="UTF-8"?><p:{root} {P}><p:cSld><p:spTree><p:nvGrpSpPr/><p:grpSpPr/>{shapes}</p:spTree></p:cSld></p:{root}>'

    c = 'xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
    cells = "".join("<a:tr>" + "".join(f"<a:tc><a:txBody><a:p><a:r><a:t>{cell}</a:t></a:r></a:p></a:txBody></a:tc>" for cell in row) + "</a:tr>" for row in (("Age", "Days"), ("50 | more", "25")))
    series = "".join(
        f"<c:ser><c:tx><c:strRef><c:strCache><c:pt idx='0'><c:v>{year}</c:v></c:pt></c:strCache></c:strRef></c:tx><c:cat><c:strRef><c:strCache><c:pt idx='0'><c:v>May</c:v></c:pt>"
        f"<c:pt idx='1'><c:v>June</c:v></c:pt></c:strCache></c:strRef></c:cat><c:val><c:numRef><c:numCache>{''.join(f'<c:pt idx={n!r}><c:v>{v}</c:v></c:pt>' for n, v in values)}</c:numCache></c:numRef></c:val></c:ser>"
        for year, values in (("2024", (("0", 3), ("1", 4))), ("2025", (("0", 5),)))
    )
    first = (
        shape("body", (0, "First"), (1, "Detail"), (0, "Second")) + shape("title", (0, "Plan")) + f'<p:graphicFrame><a:graphic><a:graphicData><a:tbl>{cells}</a:tbl></a:graphicData></a:graphic></p:graphicFrame>'
        f'<p:grpSp><p:graphicFrame><a:graphic><a:graphicData><c:chart {c} r:id="r1"/></a:graphicData></a:graphic></p:graphicFrame></p:grpSp><p:pic><p:nvPicPr><p:cNvPr id="7" name="x" descr="A red bicycle"/></p:nvPicPr></p:pic>'
    )
    chart = f"<?xml version='1.0'?><c:chartSpace {c}><c:chart><c:title><c:tx><c:rich><a:p><a:r><a:t>Visitors</a:t></a:r></a:p></c:rich></c:tx></c:title><c:plotArea><c:barChart>{series}</c:barChart></c:plotArea></c:chart></c:chartSpace>"
    parts: dict[str, str | bytes] = {
        "ppt/presentation.xml": f'<?xml version="1.0" encoding="UTF-8"?><p:presentation {P}><p:sldIdLst><p:sldId id="256" r:id="r1"/><p:sldId id="257" r:id="r2"/></p:sldIdLst></p:presentation>',
        "ppt/_rels/presentation.xml.rels": relations(("slide", "slides/slide2.xml", ""), ("slide", "/ppt/slides/slide1.xml", "")),
        "ppt/slides/slide2.xml": page("sld", first),
        "ppt/slides/_rels/slide2.xml.rels": relations(("chart", "../charts/chart1.xml", ""), ("notesSlide", "../notesSlides/notesSlide1.xml", "")),
        "ppt/slides/slide1.xml": page("sld", shape("", (0, "No title here"))),
        "ppt/charts/chart1.xml": chart,
        "ppt/notesSlides/notesSlide1.xml": page("notes", shape("sldNum", (0, "1")) + shape("body", (0, "Say it slowly"))),
    }
    return office("ppt/presentation.xml", "presentationml.presentation", parts)


def xlsx() -> bytes:
    "A workbook with two sheets, a date and a formula."
    import datetime

    import openpyxl

    book = openpyxl.Workbook()
    leave = book.active
    leave.title = "Leave"
    for row in (("Age", "Days", "Since"), ("under 50", 20, datetime.date(2024, 1, 31)), ("50 | more", 25, datetime.date(2025, 2, 1))):
        leave.append(row)
    book.create_sheet("Travel").append(("Train", 49.5))
    book.save(buffer := io.BytesIO())
    return buffer.getvalue()


def pdf(pages: Sequence[Sequence[tuple[float, float, float, str]]], bold: bool = False, extra: bytes = b"") -> bytes:
    "A PDF: on each page texts with their place from the left and the bottom and their size in points."
    streams = ["".join(f"BT /F1 {size:g} Tf {x:g} {y:g} Td ({text}) Tj ET\n" for x, y, size, text in page).encode("latin-1") for page in pages]
    return pdf_of(streams, "Helvetica-Bold" if bold else "Helvetica", extra)


def pdf_of(streams: Sequence[bytes], font: str = "Helvetica", extra: bytes = b"", squeeze: bool = True) -> bytes:
    "A PDF from the content streams of its pages."
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(streams)))
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(streams)} >>".encode(), f"<< /Type /Font /Subtype /Type1 /BaseFont /{font} >>".encode()]
    for number, stream in enumerate(streams):
        packed = zlib.compress(stream, 9)
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {5 + 2 * number} 0 R /Resources << /Font << /F1 3 0 R >> >> >>".encode())
        objects.append(f"<< /Length {len(packed)} /Filter /FlateDecode >>\nstream\n".encode() + packed + b"\nendstream")
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n" + "".join(f"{place:010} 00000 n \n" for place in places)
    return out + table.encode() + f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n{extra.decode()}startxref\n{len(out)}\n%%EOF\n".encode()


REPORT = pdf(
    [
        [(72, 770, 20, "Leave"), (72, 730, 10, "Everybody needs rest and may take some days off in"), (72, 718, 10, "every year. Ask your team before you go away for"), (72, 706, 10, "more than a week.")],
        [(72, 770, 14, "How many days"), *((72 + 150 * x, 740 - 12 * y, 10, cell) for y, row in enumerate((("Age", "Days", "Since"), ("under 50", "20", "2024"), ("50 or more", "25", "2025"))) for x, cell in enumerate(row))],
    ]
)  # Two pages: a title, a paragraph, a heading, a table

PAGE = """<!doctype html><html lang="en"><head><title>Handbook</title><style>p {color: red}</style></head><body><nav><ul><li><a href="/">Home</a><li><a href="/shop">Shop</a></ul></nav>
<article><h1>Leave</h1><p>Everybody needs rest and may take some days off in every year, as the law and our agreement say.</p><h2>How many days</h2>
<table><tr><th>Age</th><th>Days</th></tr><tr><td>under 50</td><td>20</td></tr><tr><td>50 or more</td><td>25</td></tr></table>
<p>Ask your team before you go away for more than a week, and write it down in the calendar that everybody reads.</p>
<ul><li>In summer<ul><li>two weeks</li></ul></li><li>In winter</li></ul><pre>leave --days 20</pre><script>document.write("Injected")</script></article>
<footer>Imprint and <a href="/cookies">cookies</a></footer></body></html>"""

NOTEBOOK = json.dumps(
    {
        "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": ["# Budget\n", "In euros."]},
            {"cell_type": "code", "metadata": {}, "source": "# not a heading\n1 + 1", "outputs": [{"output_type": "execute_result", "data": {"text/plain": "2", "image/png": "iVBOR"}}]},
        ],
        "metadata": {"kernelspec": {"language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
)
