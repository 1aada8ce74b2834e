//! A run as one HTML page that needs nothing else: a timeline of faults, latency and errors, and the same figures as in the terminal.

use crate::history::Record;
use crate::report::Run;
use std::fmt::Write;

const WIDTH: f64 = 1160.0;
const LEFT: f64 = 110.0;
const PLOT_TOP: f64 = 20.0;
const PLOT_HEIGHT: f64 = 260.0;
const LANE_HEIGHT: f64 = 14.0;
/// Below and above these, latencies are drawn at the edge, ms.
const LATENCIES_MS: (f64, f64) = (1.0, 30_000.0);
const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:2em;color:#222;background:#fff}svg text{font:11px system-ui,sans-serif;fill:#444}\
pre{background:#f5f5f5;padding:1em;overflow-x:auto}.key span{margin-right:1.5em}.good{color:#17692f}.bad{color:#b00020}";

/// The page.
pub fn page(run: &Run) -> String {
    let verdict = match run.violations.len() {
        0 => "<p class=\"good\">No promise was broken.</p>".to_owned(),
        count => format!("<p class=\"bad\">{count} broken promises; they are listed below.</p>"),
    };
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>tenfour chaos, seed {seed}</title><style>{STYLE}</style>\
         <h1>tenfour under faults, seed {seed}</h1>{verdict}\
         <p class=\"key\">One dot an operation, its latency upwards: <span style=\"color:{}\">● read</span><span style=\"color:{}\">● write</span>\
         <span style=\"color:{}\">✕ failed</span><span style=\"color:{}\">✕ unknown</span><span style=\"color:{}\">✕ wrong</span>\
         Below, who was hurt: a bar is a pause, a tick a kill, a ring changed files. Point at a mark to read what it was.</p>{}<pre>{}</pre></html>\n",
        colour("read"),
        colour("write"),
        colour("failed"),
        colour("unknown"),
        colour("wrong"),
        timeline(run),
        escaped(&run.text()),
        seed = run.seed,
    )
}

fn colour(kind: &str) -> &'static str {
    match kind {
        "read" => "#4a7fb5",
        "write" => "#3a9a6a",
        "failed" => "#d98200",
        "unknown" => "#8a3ffc",
        _ => "#b00020",
    }
}

fn timeline(run: &Run) -> String {
    let last =
        run.history.iter().map(|record| record.ended).chain(run.faults.iter().map(|done| done.until)).max();
    let scale = (WIDTH - LEFT - 10.0) / last.unwrap_or(1).max(1) as f64;
    let x = |micros: u64| LEFT + micros as f64 * scale;
    let mut victims: Vec<&str> = run.faults.iter().map(|done| done.victim.as_str()).collect();
    victims.sort_unstable();
    victims.dedup();
    let lanes = PLOT_TOP + PLOT_HEIGHT + 30.0;
    let height = lanes + victims.len() as f64 * LANE_HEIGHT + 20.0;
    let mut svg = format!("<svg width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"timeline\">");
    axes(&mut svg, last.unwrap_or(0), &x);
    for record in &run.history {
        mark(&mut svg, record, x(record.began));
    }
    for (lane, victim) in victims.iter().enumerate() {
        let y = lanes + lane as f64 * LANE_HEIGHT;
        let _ = write!(svg, "<text x=\"4\" y=\"{:.1}\">{}</text>", y + 10.0, escaped(victim));
        let _ = write!(svg, "<path d=\"M{LEFT} {0:.1}H{WIDTH}\" stroke=\"#eee\"/>", y + LANE_HEIGHT / 2.0);
        for done in run.faults.iter().filter(|done| done.happened && done.victim == *victim) {
            let (from, wide) = (x(done.at), (x(done.until) - x(done.at)).max(3.0));
            let title = format!("{} at {:.1} s: {}", done.kind.name(), done.at as f64 / 1e6, done.note);
            let shape = match done.kind.name() {
                "flip-bits" => format!(
                    "<circle cx=\"{from:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"none\" stroke=\"#b00020\">",
                    y + LANE_HEIGHT / 2.0
                ),
                name => format!(
                    "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"10\" fill=\"{}\">",
                    y + 2.0,
                    if name.starts_with("pause") { "#c9b458" } else { "#222" }
                ),
            };
            let close = if shape.starts_with("<circle") { "</circle>" } else { "</rect>" };
            let _ = write!(svg, "{shape}<title>{}</title>{close}", escaped(&title));
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Where a latency stands in the plot: logarithmic.
fn y(micros: u64) -> f64 {
    let (least, most) = LATENCIES_MS;
    let ms = (micros as f64 / 1000.0).clamp(least, most);
    PLOT_TOP + PLOT_HEIGHT * (1.0 - (ms / least).ln() / (most / least).ln())
}

fn axes(svg: &mut String, last: u64, x: &impl Fn(u64) -> f64) {
    for (micros, text) in
        [(1000, "1 ms"), (10_000, "10 ms"), (100_000, "100 ms"), (1_000_000, "1 s"), (10_000_000, "10 s")]
    {
        let at = y(micros);
        let _ = write!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{WIDTH}\" stroke=\"#ddd\"/><text x=\"60\" y=\"{:.1}\">{text}</text>",
            at + 4.0
        );
    }
    let step =
        [1, 2, 5, 10, 30, 60, 300].into_iter().find(|step| last / 1_000_000 / step <= 20).unwrap_or(600);
    for second in (0..=last / 1_000_000).step_by(usize::try_from(step).unwrap_or(600)) {
        let at = x(second * 1_000_000);
        let _ =
            write!(svg, "<text x=\"{at:.1}\" y=\"{:.1}\">{second} s</text>", PLOT_TOP + PLOT_HEIGHT + 16.0);
    }
}

fn mark(svg: &mut String, record: &Record, x: f64) {
    let at = y(record.ended.saturating_sub(record.began));
    let kind = match record.outcome.kind() {
        "ok" | "refused" if record.action.is_write() => "write",
        "ok" | "refused" => "read",
        bad => bad,
    };
    let colour = colour(kind);
    if matches!(kind, "read" | "write") {
        let _ = write!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{at:.1}\" r=\"1.4\" fill=\"{colour}\" fill-opacity=\".6\"/>"
        );
        return;
    }
    let title =
        format!("{} {} through {}: {:?}", record.action.kind(), record.key, record.door, record.outcome);
    let _ = write!(
        svg,
        "<path d=\"M{:.1} {:.1}l6 6m0 -6l-6 6\" stroke=\"{colour}\" stroke-width=\"1.5\"><title>{}</title></path>",
        x - 3.0,
        at - 3.0,
        escaped(&title)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
