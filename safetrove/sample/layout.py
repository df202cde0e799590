"""Turns a page of the sample corpus into the HTML that a site of its genre would serve."""

from __future__ import annotations

import re
from html import escape
from urllib.parse import urlsplit

from safetrove.sample.pages import Page, blocks

# Menu (four entries) and footer line of a site, by language.
BOILERPLATE = {
    "en": (("Home", "Latest", "About", "Contact"), "All rights reserved. Privacy and cookies"),
    "de": (("Startseite", "Aktuelles", "Über uns", "Kontakt"), "Alle Rechte vorbehalten. Datenschutz"),
    "fr": (("Accueil", "Actualités", "À propos", "Contact"), "Tous droits réservés. Mentions légales"),
    "es": (("Inicio", "Novedades", "Quiénes somos", "Contacto"), "Todos los derechos reservados. Aviso legal"),
    "it": (("Home", "Novità", "Chi siamo", "Contatti"), "Tutti i diritti riservati. Note legali"),
    "pt": (("Início", "Novidades", "Sobre", "Contato"), "Todos os direitos reservados. Privacidade"),
    "nl": (("Home", "Nieuws", "Over ons", "Contact"), "Alle rechten voorbehouden. Privacy"),
    "pl": (("Start", "Aktualności", "O nas", "Kontakt"), "Wszelkie prawa zastrzeżone. Prywatność"),
    "tr": (("Ana sayfa", "Haberler", "Hakkımızda", "İletişim"), "Tüm hakları saklıdır. Gizlilik"),
    "ru": (("Главная", "Новости", "О нас", "Контакты"), "Все права защищены. Конфиденциальность"),
    "zh": (("首页", "新闻", "关于我们", "联系方式"), "版权所有 隐私政策"),
    "ja": (("ホーム", "新着", "このサイトについて", "お問い合わせ"), "無断転載を禁じます プライバシー"),
    "ko": (("홈", "새 소식", "소개", "문의"), "모든 권리 보유. 개인정보 처리방침"),
    "th": (("หน้าแรก", "ข่าว", "เกี่ยวกับเรา", "ติดต่อ"), "สงวนลิขสิทธิ์ นโยบายความเป็นส่วนตัว"),
    "ar": (("الرئيسية", "الأخبار", "من نحن", "اتصل بنا"), "جميع الحقوق محفوظة. الخصوصية"),
    "hi": (("मुखपृष्ठ", "समाचार", "हमारे बारे में", "संपर्क"), "सर्वाधिकार सुरक्षित। गोपनीयता"),
}
RIGHT_TO_LEFT = {"ar"}
THREADS = {"forum thread", "comment section", "dialogue"}


def page_html(page: Page) -> str:
    """The whole HTML document of a page: head, menu, article or thread, sidebar, footer."""
    host = urlsplit(page.url).netloc
    site = host.removeprefix("www.").removesuffix(".example").replace("-", " ").replace(".", " ").title()
    menu, footer = BOILERPLATE[page.language]
    links = "".join(
        f'<li><a href="https://{host}/{number or ""}">{entry}</a></li>' for number, entry in enumerate(menu)
    )
    direction = ' dir="rtl"' if page.language in RIGHT_TO_LEFT else ""
    content = f"<h1>{escape(page.title)}</h1>\n{body_html(page)}"
    if page.genre in THREADS:
        main = f'<main class="thread">\n<div class="entry-content">\n{content}\n</div>\n</main>'
    else:
        main = f'<main>\n<article class="post-content">\n{content}\n</article>\n</main>'
    return (
        f'<!DOCTYPE html>\n<html lang="{page.language}"{direction}>\n<head>\n<meta charset="{page.declared_charset}">\n'
        f"<title>{escape(page.title)} | {escape(site)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="canonical" href="{escape(page.url)}">\n<link rel="stylesheet" href="/assets/site.css">\n'
        "<script>window.siteReady = Date.now();</script>\n</head>\n<body>\n"
        f'<header class="site-header"><a class="logo" href="/">{escape(site)}</a>\n<nav><ul>{links}</ul></nav></header>\n'
        f'{main}\n<aside class="sidebar"><ul>{links}</ul></aside>\n'
        f'<footer class="site-footer"><p>&copy; {escape(site)}. {footer}</p></footer>\n</body>\n</html>\n'
    )


def body_html(page: Page) -> str:
    """The HTML of the page's body alone, one element a block."""
    return "\n".join(_block_html(block, keep_lines=page.genre == "poem") for block in blocks(page.body))


def _block_html(block: str, keep_lines: bool) -> str:
    lines = [line.strip() for line in block.splitlines()]
    text = " ".join(lines)
    if text.startswith("## "):
        return f"<h2>{escape(text[3:])}</h2>"
    if all(line.startswith("- ") for line in lines):
        return "<ul>" + "".join(f"<li>{escape(line[2:])}</li>" for line in lines) + "</ul>"
    if all(re.match(r"\d+\. ", line) for line in lines):
        return "<ol>" + "".join(f"<li>{escape(line.split('. ', 1)[1])}</li>" for line in lines) + "</ol>"
    if text.startswith("> "):
        return f"<blockquote><p>{escape(' '.join(line.removeprefix('> ') for line in lines))}</p></blockquote>"
    if post := re.match(r"@([^:]+): (.*)", text):
        return f"<p><b>{escape(post[1])}</b>: {escape(post[2])}</p>"
    return "<p>" + ("<br>\n" if keep_lines else " ").join(escape(line) for line in lines) + "</p>"
