//! The page around plots and tables. A function of the findings: the same findings make the same page.

use std::fmt::Write as _;

use super::{escape, plot, verdict};
use crate::claims::{CLAIMS, Claim};
use crate::findings::{Findings, Size, Table, Verdict};

/// The whole report, as HTML that needs nothing else.
pub fn page(findings: &[Findings]) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>Bulkhead's lab: what was found</title>\
         <link rel=\"icon\" href=\"data:,\"><style>{}</style></head><body>",
        include_str!("style.css")
    );
    html += &head(findings);
    html += "<main>";
    html += &claims(findings);
    for it in findings {
        html += &experiment(it);
    }
    html += "</main>";
    html + "<footer>Made by <code>bulkhead lab report</code>. The same figures as data: \
            <a href=\"report.json\">report.json</a>, beside this page.</footer></body></html>\n"
}

fn head(findings: &[Findings]) -> String {
    let mut machines: Vec<String> = Vec::new();
    for it in findings {
        let machine = machine(it);
        if !machines.contains(&machine) {
            machines.push(machine);
        }
    }
    let first = findings.iter().map(|it| it.at.as_str()).min().unwrap_or_default();
    let last = findings.iter().map(|it| it.at.as_str()).max().unwrap_or_default();
    let mut sizes: Vec<Size> = findings.iter().map(|it| it.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let sizes: Vec<&str> = sizes.into_iter().map(size).collect();
    let loads = findings.iter().filter_map(|it| it.machine.load.parse::<f64>().ok()).fold(0.0, f64::max);
    let mut html = String::from(
        "<header><p class=\"eyebrow\">Bulkhead · the lab</p><h1>Ways to serve many clients: what they cost, and \
         what they survive</h1><dl>",
    );
    let mut entry = |what: &str, text: &str| {
        let _ = write!(html, "<div><dt>{what}</dt><dd>{}</dd></div>", escape(text));
    };
    entry("Machine", &machines.join("; "));
    entry("When", &span_of_time(first, last));
    entry("How thoroughly", &sizes.join(", "));
    entry("Load when it began", &format!("{loads} at most; the figures of a busy machine are its own"));
    html += "</dl><nav aria-label=\"Contents\"><a href=\"#claims\">the fourteen claims</a>";
    for it in findings {
        let name = escape(&it.experiment);
        let _ = write!(html, " <a href=\"#{}\">{name}</a>", anchor(&it.experiment));
    }
    html + "</nav></header>"
}

fn machine(findings: &Findings) -> String {
    let it = &findings.machine;
    let gib = it.memory_mib as f64 / 1024.0;
    format!("{} × {}, {gib:.1} GiB, Linux {}", it.cores, it.processor, it.kernel)
}

fn size(size: Size) -> &'static str {
    match size {
        Size::Smallest => "smallest: for the patterns alone, not for figures",
        Size::Quick => "quick: two minutes for everything",
        Size::Full => "full",
    }
}

fn span_of_time(first: &str, last: &str) -> String {
    let (first, last) = (minute(first), minute(last));
    if first == last { first } else { format!("{first} to {last}") }
}

/// Of RFC 3339, what people want to know.
fn minute(at: &str) -> String {
    at.get(..16).map_or_else(|| at.to_owned(), |at| at.replace('T', " ") + " UTC")
}

fn claims(findings: &[Findings]) -> String {
    let mut html = String::from("<section id=\"claims\"><h2>The fourteen claims</h2><ol class=\"claims\">");
    for claim in &CLAIMS {
        html += &claim_card(claim, findings);
    }
    html + "</ol></section>"
}

fn claim_card(claim: &Claim, findings: &[Findings]) -> String {
    let answers = verdict::answers(claim.number, findings);
    let all = verdict::of_all(answers.iter().map(|(_, answer)| *answer));
    let mut html = format!(
        "<li><p class=\"claim\"><span class=\"number\">{}</span> {}</p>{}",
        claim.number,
        with_code(claim.text),
        badge(all)
    );
    html += "<ul>";
    for (experiment, answer) in &answers {
        let own = if answer.verdict == all { String::new() } else { format!("{}: ", answer.verdict.words()) };
        let _ = write!(
            html,
            "<li>{own}{} <a href=\"#{}\">{}</a></li>",
            escape(&answer.evidence),
            anchor(experiment),
            escape(experiment)
        );
    }
    let silent = claim.experiments.iter().filter(|name| findings.iter().all(|it| it.experiment != **name));
    let silent: Vec<String> = silent.map(|name| format!("<code>bulkhead lab {name}</code>")).collect();
    if !silent.is_empty() {
        let _ = write!(html, "<li class=\"missing\">not run yet: {}</li>", silent.join(", "));
    }
    html + "</ul></li>"
}

/// Escaped, and what stands between backticks is shown as code.
fn with_code(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts
        .map(|(nth, part)| if nth % 2 == 0 { escape(part) } else { format!("<code>{}</code>", escape(part)) })
        .collect()
}

/// A sign and words: the colour only repeats them.
fn badge(verdict: Verdict) -> String {
    let (class, sign) = match verdict {
        Verdict::Held => ("held", "✓"),
        Verdict::InPart => ("part", "◐"),
        Verdict::DidNotHold => ("not", "✕"),
        Verdict::NotMeasured => ("none", "–"),
    };
    let words = verdict.words();
    format!("<p class=\"verdict {class}\"><span aria-hidden=\"true\">{sign}</span> {words}</p>")
}

fn experiment(findings: &Findings) -> String {
    let Findings { experiment, question, method, at, took_s, outcome, .. } = findings;
    let id = anchor(experiment);
    let mut html = format!(
        "<section id=\"{id}\"><h2><span class=\"eyebrow\">{}</span> {}</h2><p class=\"method\">{}</p>\
         <p class=\"method\">{}, {}, took {}.</p>",
        escape(experiment),
        escape(question),
        escape(method),
        minute(at),
        size(findings.size),
        duration(*took_s)
    );
    for (nth, it) in outcome.plots.iter().enumerate() {
        html += &plot(&format!("{id}-p{nth}"), it);
    }
    for it in &outcome.tables {
        html += &table(it);
    }
    if !outcome.notes.is_empty() {
        html += "<h3>Notes</h3><ul class=\"notes\">";
        for note in &outcome.notes {
            let _ = write!(html, "<li>{}</li>", escape(note));
        }
        html += "</ul>";
    }
    html += "<p class=\"rerun\">Again: ";
    let _ = write!(html, "<code>bulkhead lab {}</code></p></section>", escape(experiment));
    html
}

fn duration(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.1} s") } else { format!("{:.1} minutes", seconds / 60.0) }
}

fn table(table: &Table) -> String {
    let mut html = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"{0}\"><table><caption>{0}</caption>\
         <thead><tr>",
        escape(&table.title)
    );
    for column in &table.columns {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(column));
    }
    html += "</tr></thead><tbody>";
    for row in &table.rows {
        html += "<tr>";
        for (nth, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            let _ = match nth {
                0 => write!(html, "<th scope=\"row\">{cell}</th>"),
                _ => write!(html, "<td>{cell}</td>"),
            };
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

/// A name that can stand in an address and in a style sheet.
fn anchor(name: &str) -> String {
    let safe = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    format!("x-{}", name.chars().map(safe).collect::<String>())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_claims_come_first_each_with_its_verdict_and_what_says_so() {
        let html = page(&sample::findings());
        let claims = html.split("id=\"claims\"").nth(1).unwrap().split("</section>").next().unwrap();
        assert_eq!(claims.matches("class=\"claim\"").count(), 14);
        assert_eq!(claims.matches("class=\"verdict").count(), 14);
        assert!(claims.contains("<a href=\"#x-sample\">sample</a>"), "{claims}");
        assert!(claims.contains("not run yet: <code>bulkhead lab talk</code>"), "{claims}");
        assert!(html.find("id=\"claims\"") < html.find("id=\"x-sample\""));
    }

    #[test]
    fn nothing_comes_from_outside_and_no_text_becomes_markup() {
        let html = page(&sample::findings());
        for bad in ["<script", "src=", "@import", "@font-face", "<b>bold</b>", "url(http"] {
            assert!(!html.contains(bad), "{bad} is in the page");
        }
        let outside = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("http://") && !outside.contains("https://"));
        assert!(html.contains("&lt;b&gt;bold&lt;/b&gt;"));
    }

    #[test]
    fn every_name_in_the_page_is_there_once_and_every_reference_leads_to_one() {
        let html = page(&sample::findings());
        let words = |before: &str| -> Vec<String> {
            html.split(before)
                .skip(1)
                .filter_map(|it| it.split(['"', ')']).next())
                .map(str::to_owned)
                .collect()
        };
        let mut ids = words(" id=\"");
        ids.sort();
        for pair in ids.windows(2) {
            assert_ne!(pair.first(), pair.last(), "twice");
        }
        let references = words("href=\"#").into_iter().chain(words("url(#"));
        for reference in references {
            assert!(ids.contains(&reference), "nothing is called {reference}");
        }
    }

    #[test]
    fn every_element_that_is_opened_is_closed() {
        let html = page(&sample::findings());
        for tag in
            ["section", "figure", "table", "tr", "td", "th", "svg", "g", "div", "li", "ul", "ol", "p", "text"]
        {
            let opened =
                html.matches(&format!("<{tag} ")).count() + html.matches(&format!("<{tag}>")).count();
            assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn of_no_findings_there_is_a_page_all_the_same() {
        assert!(page(&[]).contains("The fourteen claims"));
    }
}
