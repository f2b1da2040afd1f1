//! A heat map: a table in which each cell says in words what its colour says as well.
//!
//! It is a table and no drawing: it can be read aloud, searched, copied, and scrolled on a phone.

use std::fmt::Write as _;

use super::escape;
use crate::findings::{HeatCell, HeatKey, HeatRow};

pub(super) fn figure(title: &str, columns: &[String], rows: &[HeatRow], key: &[HeatKey]) -> String {
    let cells = || rows.iter().flat_map(|row| &row.cells);
    let mut html = format!(
        "<figure><figcaption>{0}</figcaption><div class=\"scroll\" tabindex=\"0\" role=\"group\" \
         aria-label=\"{0}\"><table class=\"heat\"><thead><tr><td></td>",
        escape(title)
    );
    for column in columns {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(column));
    }
    html += "</tr></thead><tbody>";
    for row in rows {
        let _ = write!(html, "<tr><th scope=\"row\">{}</th>", escape(&row.name));
        for cell in &row.cells {
            html += &of(cell);
        }
        html += "</tr>";
    }
    html += "</tbody></table></div><p class=\"key\">";
    for HeatKey { heat, text } in key {
        let heat = heat.clamp(0.0, 1.0);
        let _ = write!(html, "<span class=\"swatch\" style=\"--heat:{heat:.2}\"></span> {} ", escape(text));
    }
    if cells().any(|cell| cell.heat.is_none()) {
        html += " <span class=\"swatch none\"></span> not run";
    }
    if cells().any(|cell| cell.expected == Some(false)) {
        html += " <span class=\"other\">≠</span> came out differently from what had been written down";
    }
    html += "</p>";
    html += &details(columns, rows);
    html + "</figure>"
}

fn of(cell: &HeatCell) -> String {
    let heat = match cell.heat {
        Some(heat) => format!("style=\"--heat:{:.2}\"", heat.clamp(0.0, 1.0)),
        None => "class=\"none\"".to_owned(),
    };
    let other = match cell.expected {
        Some(false) => {
            " <span class=\"other\" title=\"not as expected\">≠<span class=\"unseen\"> not as expected</span></span>"
        }
        Some(true) | None => "",
    };
    format!("<td {heat} title=\"{}\">{}{other}</td>", escape(&cell.detail), escape(&cell.text))
}

/// What somebody sees who points at a cell, for those who cannot point.
fn details(columns: &[String], rows: &[HeatRow]) -> String {
    let mut items = String::new();
    for row in rows {
        for (column, cell) in columns.iter().zip(&row.cells).filter(|(_, cell)| !cell.detail.is_empty()) {
            let _ =
                write!(items, "<li>{}, {}: {}</li>", escape(&row.name), escape(column), escape(&cell.detail));
        }
    }
    if items.is_empty() {
        return items;
    }
    format!("<details><summary>Each cell in words</summary><ul>{items}</ul></details>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_says_in_words_what_its_colour_says() {
        let cell = |heat, expected| HeatCell {
            text: "3 of 4".to_owned(),
            heat,
            expected,
            detail: "three failed".to_owned(),
        };
        let cells = vec![cell(Some(0.75), Some(false)), cell(None, None)];
        let rows = [HeatRow { name: "threads".to_owned(), cells }];
        let key = [HeatKey { heat: 0.75, text: "most fail".to_owned() }];
        let html = figure("who fails", &["segfault".to_owned(), "fork bomb".to_owned()], &rows, &key);
        assert_eq!(html.matches("3 of 4").count(), 2, "{html}");
        for needed in [
            "style=\"--heat:0.75\"></span> most fail",
            "<td style=\"--heat:0.75\"",
            "class=\"none\"",
            "not as expected",
            "not run",
            "<li>threads, segfault: three failed</li>",
        ] {
            assert!(html.contains(needed), "{needed} is not in {html}");
        }
    }
}
