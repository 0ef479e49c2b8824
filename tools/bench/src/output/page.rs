//! A page that needs no other file: style, tables, text.

use std::fmt::Write;

/// Text within HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

/// Rows of text, the first the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table>");
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        html += "<tr>";
        for cell in row {
            let _ = write!(html, "<{tag}>{}</{tag}>", escape(cell));
        }
        html += "</tr>\n";
    }
    html + "</table>\n"
}

/// What can be opened and closed.
pub fn details(summary: &str, html: &str) -> String {
    format!("<details><summary>{}</summary>{html}</details>\n", escape(summary))
}

/// The whole page.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

const STYLE: &str = "
:root { color-scheme: light dark; --back: #ffffff; --text: #1b1f24; --faint: #6a737d; --grid: #e3e6ea; --alarm: #b42318;
  --c0: #0b66c3; --c1: #c2410c; --c2: #15803d; --c3: #7e3ff2; --c4: #b5179e; --c5: #857000; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171a; --text: #e6e8ea; --faint: #9aa4ae; --grid: #2b3036; --alarm: #ff8a80;
    --c0: #5aa9ff; --c1: #ff9a5c; --c2: #5fd38d; --c3: #b79cff; --c4: #ff8adf; --c5: #d9c74b; } }
body { margin: 2rem auto; padding: 0 1rem; max-width: 62rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--grid); text-align: right; white-space: nowrap; }
th { color: var(--faint); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
.alarm { color: var(--alarm); font-weight: 600; } .faint { color: var(--faint); }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; } svg text { fill: var(--faint); font-size: 11px; }
.grid { stroke: var(--grid); stroke-width: 1; }
polyline { fill: none; stroke-width: 1.8; } .range { stroke: none; opacity: .18; } polyline.dashed { stroke-dasharray: 5 4; }
.legend { font-size: .85rem; color: var(--faint); } .legend span { margin-right: 1rem; }
.legend i { display: inline-block; width: 1.4rem; border-top: 3px solid; margin-right: .4rem; vertical-align: middle; }
.legend i.dashed { border-top-style: dashed; }
polyline.c0 { stroke: var(--c0); } circle.c0, polygon.c0 { fill: var(--c0); } .k0 { border-color: var(--c0) !important; }
polyline.c1 { stroke: var(--c1); } circle.c1, polygon.c1 { fill: var(--c1); } .k1 { border-color: var(--c1) !important; }
polyline.c2 { stroke: var(--c2); } circle.c2, polygon.c2 { fill: var(--c2); } .k2 { border-color: var(--c2) !important; }
polyline.c3 { stroke: var(--c3); } circle.c3, polygon.c3 { fill: var(--c3); } .k3 { border-color: var(--c3) !important; }
polyline.c4 { stroke: var(--c4); } circle.c4, polygon.c4 { fill: var(--c4); } .k4 { border-color: var(--c4) !important; }
polyline.c5 { stroke: var(--c5); } circle.c5, polygon.c5 { fill: var(--c5); } .k5 { border-color: var(--c5) !important; }
pre { overflow-x: auto; background: color-mix(in srgb, var(--grid) 45%, transparent); padding: .8rem; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_no_other_file_and_escapes_what_it_is_given() {
        let page = page("a & b", &table(&[vec!["<x>".into()], vec!["\"y\"".into()]]));
        assert!(page.contains("<title>a &amp; b</title>") && page.contains("<th>&lt;x&gt;</th>"));
        assert!(page.contains("<td>&quot;y&quot;</td>"));
        for outside in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
