"""Markdown as HTML: what it looks like, what it must never hold, and that no text takes it long.

What must never be there is judged by an HTML parser, not by looking for words: escaped, any word is harmless.
"""

from __future__ import annotations

import time

import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus.markdown import _LANGUAGES, render, sanitised

LINK = '<a rel="noopener noreferrer nofollow" target="_blank" '
PLAIN = "blockquote br del em h1 h2 h3 h4 h5 h6 hr li p pre s strong table tbody thead tr ul"
ALLOWED = {
    "a": {"href", "title", "rel", "target"},
    "code": {"class"},
    "div": {"class"},
    "ol": {"start"},
    "span": {"class"},
    "td": {"align"},
    "th": {"align"},
    **{name: set[str]() for name in PLAIN.split()},
}


def harmless(markup: str) -> BeautifulSoup:
    """Return *markup* as a browser would read it, after it was found to be harmless."""
    soup = BeautifulSoup(markup, "html.parser")
    assert "<!" not in markup
    for tag in soup.find_all(True):
        assert tag.name in ALLOWED, markup
        assert set(tag.attrs) <= ALLOWED[tag.name], markup
        if tag.name == "a":
            assert tag["rel"] == ["noopener", "noreferrer", "nofollow"]
            assert tag["target"] == "_blank"
            assert str(tag.get("href", "https://")).startswith(("http://", "https://", "mailto:")), markup
    return soup


# What it looks like


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("", ""),
        ("Hello", "<p>Hello</p>\n"),
        ("one\ntwo", "<p>one<br>\ntwo</p>\n"),
        ("# Title\n\ntext", "<h1>Title</h1>\n<p>text</p>\n"),
        ("<b>a</b> &lt;b&gt;", "<p>&lt;b&gt;a&lt;/b&gt; &lt;b&gt;</p>\n"),
        ("*a* **b** ~~c~~ `d`", "<p><em>a</em> <strong>b</strong> <s>c</s> <code>d</code></p>\n"),
        ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n"),
        ("3. a\n4. b", '<ol start="3">\n<li>a</li>\n<li>b</li>\n</ol>\n'),
        ("> a\n\n---", "<blockquote>\n<p>a</p>\n</blockquote>\n<hr>\n"),
        ("1 < 2 & 3", "<p>1 &lt; 2 &amp; 3</p>\n"),
        (
            '[a](https://b.example/?c&d "e")',
            '<p><a href="https://b.example/?c&amp;d" title="e" target="_blank" rel="noopener noreferrer nofollow">a</a>'
            "</p>\n",
        ),
        (
            "<https://b.example>",
            '<p><a href="https://b.example" target="_blank" rel="noopener noreferrer nofollow">https://b.example</a></p>\n',
        ),
        (
            "<a@b.example>",
            '<p><a href="mailto:a@b.example" target="_blank" rel="noopener noreferrer nofollow">a@b.example</a></p>\n',
        ),
    ],
)
def test_markdown(text: str, markup: str) -> None:
    assert render(text) == markup
    harmless(markup)


def test_tables() -> None:
    soup = harmless(render("| a | b | c |\n|---|:-:|--:|\n| 1 | 2 | 3 |"))
    assert [(cell.name, cell.get("align"), cell.text) for cell in soup.find_all(["th", "td"])] == [
        ("th", None, "a"), ("th", "center", "b"), ("th", "right", "c"),
        ("td", None, "1"), ("td", "center", "2"), ("td", "right", "3"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        (
            "```python\nif x:\n```",
            '<div class="highlight"><pre><code class="language-python"><span class="k">if</span> '
            '<span class="n">x</span><span class="p">:</span>\n</code></pre></div>\n',
        ),
        ("```\na < b\n```", '<div class="highlight"><pre><code>a &lt; b\n</code></pre></div>\n'),
        ("    a < b", '<div class="highlight"><pre><code>a &lt; b\n</code></pre></div>\n'),
        ("```klingon\na\n```", '<div class="highlight"><pre><code>a\n</code></pre></div>\n'),
        ("```html\n\n\n```", '<div class="highlight"><pre><code class="language-html">\n\n</code></pre></div>\n'),
    ],
)
def test_code(text: str, markup: str) -> None:
    assert render(text) == markup
    harmless(markup)


@pytest.mark.parametrize("language", ["Python", "python title=x", "JSON", "c++", "sh", "html", "sql", "ts"])
def test_languages(language: str) -> None:
    [code] = harmless(render(f"```{language}\nselect 'x' from y < {{1}} + 2\n```")).find_all("code")
    assert code["class"] == [f"language-{language.split()[0].lower()}"]
    assert code.text == "select 'x' from y < {1} + 2\n"
    assert code.find_all("span")


@pytest.mark.parametrize("language", sorted(_LANGUAGES))
def test_every_language_has_a_lexer(language: str) -> None:
    assert harmless(render(f"```{language}\na = 1\n```")).text == "a = 1\n\n"


@pytest.mark.parametrize(
    ("text", "links", "said"),
    [
        ("![cat](https://e.example/cat.png)", ["https://e.example/cat.png"], "cat"),
        ("![](https://e.example/cat.png)", ["https://e.example/cat.png"], "https://e.example/cat.png"),
        ("[![cat](https://e.example/cat.png)](https://e.example/)", ["https://e.example/"], "cat"),
        ("![cat][1]\n\n[1]: https://e.example/cat.png", ["https://e.example/cat.png"], "cat"),
        ("![x](data:image/png;base64,AAAA)", [], "![x](data:image/png;base64,AAAA)"),
        ("![x](//e.example/x.png)", [], "![x](//e.example/x.png)"),
    ],
)
def test_images_become_links(text: str, links: list[str], said: str) -> None:
    """An answer must not make a browser tell a third party that it is read."""
    soup = harmless(render(text))
    assert [link["href"] for link in soup.find_all("a")] == links
    assert soup.text.strip() == said


@pytest.mark.parametrize(
    "url", ["/api/sessions", "x", "#x", "?x", "../x", "//e.example", "\\\\e.example", "ftp://e", "x:y"]
)
def test_links_that_are_none(url: str) -> None:
    assert harmless(render(f"[a]({url})\n\n[b]\n\n[b]: {url}\n\n<{url}>")).find_all("a") == []


# What must never be there

XSS = [
    "<script>alert(1)</script>",
    "<ScRiPt src=//e.example/x.js></sCrIpT>",
    "<script\n>alert(1)</script\n>",
    "<img src=x onerror=alert(1)>",
    "<img src=x onerror\n=\nalert(1)//",
    "<body onload=alert(1)>",
    "<a href='javascript:alert(1)' onclick=alert(1)>x</a>",
    "<a href='jav&#x09;ascript:alert(1)'>x</a>",
    "<a href='&#106;avascript:alert(1)'>x</a>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><a xlink:href='javascript:alert(1)'><text>x</text></a></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<math><maction actiontype=statusline xlink:href='javascript:alert(1)'>x</maction></math>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data='data:text/html,<script>alert(1)</script>'></object>",
    "<embed src='javascript:alert(1)'>",
    "<style>@import 'http://e.example/x.css'; * { background: url(http://e.example) }</style>",
    "<p style='background: url(http://e.example)'>x</p>",
    "<link rel=stylesheet href=http://e.example/x.css>",
    "<meta http-equiv=refresh content='0; url=javascript:alert(1)'>",
    "<base href='http://e.example/'>",
    "<form action='http://e.example/'><input name=token autofocus onfocus=alert(1)><button>x</button></form>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<audio src=x onerror=alert(1)>",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
    "<textarea></textarea><img src=x onerror=alert(1)></textarea>",
    "<title><img src=x onerror=alert(1)></title>",
    "<xmp><img src=x onerror=alert(1)></xmp>",
    "<plaintext><img src=x onerror=alert(1)>",
    "<select><style></select><img src=x onerror=alert(1)></style>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<!--><script>alert(1)</script -->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?xml version='1.0'?><x:script xmlns:x='http://www.w3.org/1999/xhtml'>alert(1)</x:script>",
    "<!DOCTYPE x [<!ENTITY y '<script>alert(1)</script>'>]>&y;",
    "<<script>alert(1)//<</script>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "</p></div></pre></code><script>alert(1)</script>",
    "<a <!-- --> href=javascript:alert(1)>x",
    "<p id=chat name=body class=composer slot=x is=x>x</p>",
    "<custom-element onclick=alert(1)>x</custom-element>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "\x00<script>alert(1)</script>",
    "<\x00script>alert(1)</script>",
    "\ufeff<script>alert(1)</script>",
    # Markdown's own
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x]( javascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](<java\tscript:alert(1)>)",
    "[x](java&Tab;script:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](&#106;&#97;vascript:alert(1))",
    "[x](&#x6A&#x61vascript:alert(1))",
    "[x](javascript%3Aalert(1))",
    "[x](\\javascript:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](file:///etc/passwd)",
    "[x](blob:https://e.example/1)",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](DATA:text/html,<script>alert(1)</script>)",
    "[x](data&colon;text/html,x)",
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    "[x]: javascript:alert(1)\n\n[x]",
    "[x]: <data:text/html,y> 'z'\n\n![x]",
    "<javascript:alert(1)>",
    "<data:text/html,x>",
    '<https://e.example/"onmouseover=alert(1)>',
    '[x](https://e.example "\\" onmouseover=alert(1) x=\\"")',
    "[x](https://e.example '\"><script>alert(1)</script>')",
    "[x](https://e.example (<img src=x onerror=alert(1)>))",
    '[x](https://e.example/"onmouseover="alert(1))',
    '![" onerror="alert(1)](https://e.example/x.png)',
    "![<script>alert(1)</script>](https://e.example/x.png)",
    "[<img src=x onerror=alert(1)>](https://e.example)",
    "[![x](https://e.example/a)](javascript:alert(1))",
    "[a](https://e.example/[b](javascript:alert(1)))",
    "`<script>alert(1)</script>`",
    "``</code><script>alert(1)</script>``",
    "    </code></pre><script>alert(1)</script>",
    "```\n</code></pre><script>alert(1)</script>\n```",
    "```html\n</code></pre><script>alert(1)</script><img src=x onerror=alert(1)>\n```",
    "```js\n'</span></code></pre><script>alert(1)</script>'\n```",
    '```"><script>alert(1)</script>\nx\n```',
    '```python"onmouseover="alert(1)\nx\n```',
    "```js onclick=alert(1) class=composer\nx\n```",
    "~~~<script>alert(1)</script>\nx\n~~~",
    "# <script>alert(1)</script>\n<script>\n===",
    "> <script>\n> alert(1)\n> </script>",
    "- <img src=x onerror=alert(1)>\n  <svg onload=alert(1)>",
    '| <script>alert(1)</script> | b |\n|:-:"onclick=alert(1)|---|\n| <img src=x onerror=alert(1)> | x |',
    "| a |\n|:-:|\n| </td></table><script>alert(1)</script> |",
    "**<script>*alert(1)*</script>**",
    "*<img src=x* onerror=alert(1)>",
    "<div>\n\n*x*\n\n<script>\n\nalert(1)\n\n</script>\n\n</div>",
]


@pytest.mark.parametrize("payload", XSS)
@pytest.mark.parametrize("around", ["{}", "> - {}", "a {} b", "**{}**", "[{}](https://e.example)", "{0}\n\n{0}"])
def test_no_payload_becomes_markup(payload: str, around: str) -> None:
    harmless(render(around.format(payload)))


@pytest.mark.parametrize("payload", XSS)
def test_the_first_barrier_holds_alone(payload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing were sanitised: only what a link says of itself is missing then."""
    monkeypatch.setattr("odysseus.markdown.sanitised", lambda markup: markup.replace("<a ", LINK))
    harmless(render(payload))


@pytest.mark.parametrize("payload", XSS)
def test_the_second_barrier_holds_alone(payload: str) -> None:
    """As if the parser let everything pass."""
    for markup in (payload, f"<p>{payload}</p>", f"<table><tr><td>{payload}", f"<pre><code>{payload}</code></pre>"):
        harmless(sanitised(markup))


def test_the_check_can_fail() -> None:
    for markup in ("<script>x</script>", "<p onclick=x>", "<!-- -->", "<a href='javascript:x'>", "<img src=x>"):
        with pytest.raises((AssertionError, KeyError)):
            harmless(markup)


def test_classes_are_pygments_own() -> None:
    """Or an answer could look like a part of the page."""
    soup = harmless(
        sanitised(
            '<div class="highlight composer"><code class="language-python button"><span class="k composer">x</span>'
            '<p class="x">y</p></code></div>'
        )
    )
    assert [tag.get("class") for tag in soup.find_all(True)] == [["highlight"], ["language-python"], ["k"], None]


MARKUP = st.text(st.sampled_from("<>\"'&;:/=!-#[]()`*_~|\\ \n\tax1j{}"), max_size=60)


@given(st.lists(st.one_of(MARKUP, st.sampled_from(XSS)), max_size=5).map("".join))
@settings(deadline=None, max_examples=200)
def test_whatever_is_written_is_harmless(text: str) -> None:
    harmless(render(text))


# What it costs


@pytest.mark.parametrize(
    "piece",
    [
        "[", "]", "![", "[]", "[](", "[a](", "[a](<", "[a](b \"", "[a](b '", "[a](b (", "[a][", "[[]", "![[]()",
        "[a]: b\n", "[a]: b '\n", "[a\n", "[\\]", "*", "**", "*a", "**a ", "a**b", "*a_ ", "_a ", "~~", "~~a", "~a~~",
        "*a **b ", "***a ", "`", "`a", "`a``", "``a```", "<", "<a", "<a:", "<a@", "<!--", "<!", "<?", "&", "&a", "&#",
        "&#x", "\\", "\\\n", ">", "> ", ">a\n", "> > a\n", "-", "- ", "- a\n", "- a\n  ", "* - + ", "1. ", "1)\n", "#",
        "# ", "#\n", "=\n", "a\n=\n", "a\n-\n", "|", "|\n", "|a|\n|-|\n", "|-", "a|b\n-|-\n", "|-|-|\n", "```", "```\n",
        "```a\n", "~~~\n", "    ", "\t", "    a\n", "\n", " ", "  \n", "a", "a ", "a\n", "ä", "\U0001f6a2", "(", ")",
        "\"", "'", ":", "@", "http://", "a@b.", "\x01", "\u2028", "{", "}", "$", "^", "+", "%", "!", "[a](b)",
        "![a](b)", "[a](https://b) ", "![a](https://b) ", "<https://a> ", "*a* ", "`a` ", "> - 1. ", "- > ",
    ],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    """Whatever is repeated costs no more than its length: squared, 20,000 characters would be ten minutes."""
    text = (piece * 20_000)[:20_000]
    begun = time.thread_time()
    render(text)
    took_s = time.thread_time() - begun
    assert took_s < 4, f"{took_s:.1f} s"


@pytest.mark.parametrize(
    ("language", "piece"),
    [
        ("c", "\n"),
        ("cs", "a\n"),
        ("css", '"\\'),
        ("go", '"\\'),
        ("java", "a "),
        ("js", "a."),
        ("make", "a"),
    ],
)
def test_no_code_takes_long(language: str, piece: str) -> None:
    """A lexer's time can grow with the square of the text; what isn't done in time stays without colours."""
    code = "".join(f"```{language}\n{(piece * 10_000)[:9_999]}\n```\n" for _ in range(5))
    begun = time.thread_time()
    markup = render(code)
    took_s = time.thread_time() - begun
    assert took_s < 5, f"{took_s:.1f} s"
    blocks = harmless(markup).find_all("code")
    assert [block["class"] for block in blocks] == [[f"language-{language}"]] * 5
    assert all(len(block.text) == 10_000 for block in blocks)


def test_code_after_that_stays_plain() -> None:
    """The time is that of the whole answer."""
    slow, quick = "```c\n" + "\n" * 9_900 + "```\n", "```python\nif x:\n```\n"
    assert "<span" in render(quick)
    assert "<span" not in render(slow + quick)


@pytest.mark.parametrize("piece", ["[", "![", "[a", "[[a]", "[*"])
def test_steps_are_counted(piece: str) -> None:
    assert render(piece * 10_000) == f"<pre>{piece * 10_000}</pre>"
    assert render(piece * 20).startswith("<p>")


def test_a_text_that_is_too_long_comes_as_it_is() -> None:
    assert render("*a* <b>" * 50_000) == f"<pre>{'*a* &lt;b&gt;' * 50_000}</pre>"
