"""Templates that would take for ever, or all memory: each is refused in one sentence, after a bounded number of steps."""

# ruff: noqa: E501 - templates
from __future__ import annotations

import resource
from pathlib import Path

import psutil
import pytest

from smolorad.chat.template import ChatTemplate, TemplateRefuses
from smolorad.errors import UnsupportedModel
from tests.unit.chat.kit import SPECIAL, TEMPLATES, model_text, talk

_GIGABYTE = 2**30
# Doubles what `ns.x` is, forty times.
_DOUBLED = "{% set ns = namespace(x=START) %}{% for i in range(40) %}{% set ns.x = MORE %}{% endfor %}"


def doubled(start: str, more: str, then: str = "") -> str:
    """A template that makes more and more of a value."""
    return _DOUBLED.replace("START", start).replace("MORE", more) + then


HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops that write": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "a filtered loop": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "a recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a wide recursive loop": "{% for a in range(50) recursive %}{{ loop(range(50)) if loop.depth < 20 }}{% endfor %}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}",
    "a block that shows itself": "{% block b %}{{ self.b() }}{% endblock %}",
    "a caller": "{% macro m() %}{% call m() %}{% endcall %}{{ caller() }}{% endmacro %}{% call m() %}x{% endcall %}",
    "a power": "{{ 10 ** (10 ** 8) }}",
    "a product": doubled("3", "ns.x * ns.x * ns.x * ns.x * ns.x * ns.x * ns.x * ns.x"),
    "a text repeated": "{{ 'a' * (10**10) }}",
    "a text repeated by": "{{ 10**10 * 'a' }}",
    "a message repeated": "{{ messages[0].content * 10**10 }}",
    "a list repeated": "{{ ([0] * 10**10) | length }}",
    "a sum of texts": doubled("'a'", "ns.x + ns.x"),
    "texts side by side": doubled("'a'", "ns.x ~ ns.x"),
    "a text of one's own": doubled("'a'", "'%s%s' % (ns.x, ns.x)"),
    "a sum of lists": doubled("[0]", "ns.x + ns.x"),
    "a list of itself twice": doubled("[0]", "[ns.x, ns.x]", "{{ ns.x }}"),
    "a dict of itself twice": doubled("{'a': 0}", "{'a': ns.x, 'b': ns.x}", "{{ ns.x | tojson }}"),
    "a namespace of itself twice": doubled("0", "namespace(a=ns.x, b=ns.x)", "{{ ns.x }}"),
    "a tuple of itself twice, compared": doubled("(0,)", "(ns.x, ns.x)", "{{ ns.x == ns.x }}"),
    "a slice in a loop": "{% set l = range(99999) | list %}{% for a in range(99999) %}{% set m = l[1:] %}{% endfor %}",
    "a search in a loop": "{% set t = 'a' * 500000 %}{% for a in range(99999) %}{% if 'b' in t %}{% endif %}{% endfor %}",
    "a comparison in a loop": "{% set t, u = 'a' * 500000, 'a' * 500000 %}{% for a in range(99999) %}{% if t == u %}{% endif %}{% endfor %}",
    "a test in a loop": "{% set t = 'a' * 500000 %}{% for a in range(99999) %}{% if 'b' is in t %}{% endif %}{% endfor %}",
    "a filter in a loop": "{% set t = 'a' * 500000 %}{% for a in range(99999) %}{{ t | upper | length }}{% endfor %}",
    "a text shown in a loop": "{% set t = 'a' * 500000 %}{% for a in range(99999) %}{{ t }}{% endfor %}",
    "a list of texts": "{% set ns = namespace(x=[]) %}{% for a in range(99999) %}{% set ns.x = ns.x + ['a' * 500000] %}{% endfor %}",
    "a set block": "{% set ns = namespace(x='aa') %}{% for a in range(99) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "a filter block": "{% for a in range(999) %}{% filter replace('', 'x' * 500000) %}{% for b in range(99) %}a{% endfor %}{% endfilter %}{% endfor %}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent by a value": "{{ '%*d' % (10**9, 1) }}",
    "percent with a precision": "{{ '%.1000000000f' % 1 }}",
    "percent by name": "{{ ('%(a)s' * 9999) % {'a': 'x' * 99999} }}",
    "the filter format": "{{ '%1000000000d' | format(1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format by a value": "{{ '{:{}}'.format(1, 10**9) }}",
    "format by a value deep in a list": "{{ '{:{1[0][a]}}'.format(1, [{'a': 10**9}]) }}",
    "format again and again": "{{ ('{0}' * 9999).format('x' * 99999) }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "center": "{{ 'a' | center(10**9) }}",
    "center by a number of the compiler's": "{{ 'a' | center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "many tabulators": "{{ ('\t' * 99999).expandtabs(99999) }}",
    "paragraphs by name": "{{ lipsum(n=3000000) | length }}",
    "long paragraphs by name": "{{ lipsum(n=1, min=100000000, max=100000001) | length }}",
    "Punycode": "{{ ('%c' % 0x6f22 * 300000).encode('punycode') | length }}",
    "names of hosts": "{{ ('xn--' ~ 'a' * 400000).encode().decode('idna') | length }}",
    "a count in a loop": "{% set l = [0] * 60000 %}{% for i in range(99999) %}{% set n = l.count(7) %}{% endfor %}",
    "a search in a range in a loop": "{% set r = range(99999) %}{% for i in range(99999) %}{% set n = r.count('a') %}{% endfor %}",
    "a long key in a loop": "{% set k = (0,) * 60000 %}{% set d = {k: 1} %}{% for i in range(99999) %}{% set n = d[k] %}{% endfor %}",
    "a long key that is asked for in a loop": "{% set k = (0,) * 60000 %}{% set d = {k: 1} %}{% for i in range(99999) %}{% set n = d.get(k) %}{% endfor %}",
    "the largest of a range in a loop": "{% for i in range(99999) %}{% set n = range(99999) | max %}{% endfor %}",
    "many arguments in a loop": "{% set r = range(99999) %}{% for i in range(99999) %}{% set n = cycler(*r) %}{% endfor %}",
    "percent by a name with brackets": "{{ '%((a))1000000000d' % {'(a)': 1} }}",
    "format by a text": "{{ '{0:>{1}}'.format('a', '1000000000') }}",
    "format by digits side by side": "{{ '{0:{1}{1}{1}{1}{1}{1}{1}{1}{1}{1}}'.format('a', 9) }}",
    "replace by names in another order": "{{ ('a' * 500000) | replace(new='x' * 500000, old='a') | length }}",
    "translate by a list": "{{ ('\x00' * 100000).translate(['x' * 100000]) | length }}",
    "bytes": "{{ 'a'.encode().ljust(10**10) | length }}",
    "bytes of a number": "{{ (1).to_bytes(10**10, 'big') | length }}",
    "a number of bytes": "{{ (0).from_bytes(('a' * 99999).encode(), 'big') }}",
    "a number of digits": "{{ ('f' * 99999) | int(base=16) % 7 }}",
    "indent": "{{ 'a\nb' | indent(10**9) }}",
    "indent many lines": "{{ ('a\n' * 9999) | indent(99999) }}",
    "indent by a text": "{{ ('a\n' * 9999) | indent('x' * 99999) }}",
    "tojson": "{{ [1, 2] | tojson(indent=10**9) }}",
    "replace": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "replace nothing": "{{ ('a' * 99999).replace('', 'b' * 99999) }}",
    "replace by name": "{{ ('a' * 99999) | replace(old='a', new='b' * 99999) }}",
    "join": "{{ range(99999) | join('b' * 99999) }}",
    "join by name": "{{ range(99999) | join(d='b' * 99999) }}",
    "join, the method": "{{ ('b' * 99999).join(range(99999) | map('string')) }}",
    "translate": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "slice": "{{ [1] | slice(10**9) | list | length }}",
    "map": "{{ ['a'] | map('center', 10**9) | list }}",
    "many maps": "{{ range(99999)" + " | map('string')" * 99 + " | list | length }}",
    "sum": "{{ range(99999) | map('string') | map('list') | sum(start=[]) | length }}",
    "round": "{{ 5 | round(-(10**8)) }}",
    "round up": "{{ 5 | round(10**8, 'ceil') }}",
    "striptags": "{{ ('<!---->' * 99999) | striptags }}",
    "wordwrap": "{{ ('a ' * 99999) | wordwrap(1, wrapstring='x' * 99999) }}",
    "lipsum": "{{ lipsum(10**9) }}",
    "long lipsum": "{{ lipsum(1, false, 10**8, 10**9) }}",
    "pprint": "{% for a in range(9999) %}{{ range(9999) | list | pprint }}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_without_measure_is_refused(name: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + _GIGABYTE, hard))
    try:
        with pytest.raises(UnsupportedModel, match=r"^The model's chat template .*choose another model"):
            ChatTemplate(HOSTILE[name], SPECIAL).render(talk("A?"))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    "source", ["{{ '\\ud800' }}", "{{ messages[0].content ~ '\\udfff' }}", "{{ raise_exception('\\ud800') }}"]
)
def test_half_a_character_is_refused(source: str) -> None:
    with pytest.raises(TemplateRefuses) as refused:
        ChatTemplate(source, SPECIAL).render(talk("A?"))
    assert str(refused.value).encode()
    assert ChatTemplate("{{ '🙂' }}", SPECIAL).render(talk("A?")) == "🙂"


def test_of_a_long_refusal_the_beginning_is_passed_on() -> None:
    with pytest.raises(TemplateRefuses) as refused:
        ChatTemplate("{{ raise_exception([1] * 9999) }}", SPECIAL).render(talk("A?"))
    assert len(str(refused.value)) < 1000


def test_compiling_is_bounded_too() -> None:
    for source in (
        "{{ " + "(" * 99999,
        "{% if 1 %}" * 200 + "{% endif %}" * 200,
        "{{ 1 }}" * 99999,
        "{{ " + "9" * 9999 + " }}",
    ):
        with pytest.raises(TemplateRefuses):
            ChatTemplate(source, SPECIAL)


@pytest.mark.parametrize("file", TEMPLATES)
def test_templates_of_real_models_are_far_from_the_bounds(file: Path) -> None:
    template = ChatTemplate(file.read_text(encoding="utf-8"), SPECIAL)
    shown = template.render(talk(*("The quick brown fox. " * 100 for _ in range(100))), open_for_answer=True)
    assert shown.count("The quick brown fox.") >= 5_000


def test_a_template_without_end_stays_so_for_prompts_alone() -> None:
    """A prompt needs no template, and a control token in it is still text."""
    text = model_text(HOSTILE["loops"])
    assert text.prompt("a") == text.prompt("a", parse_special=True)
    with pytest.raises(UnsupportedModel, match="more than"):
        text.conversation(talk("A?"))
