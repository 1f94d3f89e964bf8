//! A screen of what the model says.

use insight::amounts::size;
use insight::verdict::Verdict;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table, Wrap};

use super::super::words::printable;
use super::super::{process_table, verdicts};
use super::model::{Column, Guest, Page, Screen, TREND};

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ]);
    let [head, body, foot] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(headline(screen)).bold(), head);
    match screen.page {
        Page::Guests => guests(frame, body, screen),
        Page::Processes => page(frame, body, screen, process_lines(screen)),
        Page::Truth => page(frame, body, screen, truth_lines(screen)),
    }
    let keys = match screen.page {
        Page::Guests => "q leave  Enter processes  t truth  s/S sort  r reverse  Up/Down choose",
        _ => "q back  p processes  t truth  Up/Down scroll",
    };
    frame.render_widget(
        Paragraph::new(keys).style(Style::new().add_modifier(Modifier::REVERSED)),
        foot,
    );
}

fn headline(screen: &Screen) -> Line<'static> {
    if let Some(trouble) = &screen.trouble {
        return Line::from(format!("mother top  {}", printable(trouble)));
    }
    match (screen.page, screen.chosen()) {
        (Page::Processes, Some(guest)) => {
            Line::from(format!("processes in {}, read from outside", guest.name))
        }
        (Page::Truth, Some(guest)) => Line::from(format!("truth about {}", guest.name)),
        _ => {
            // All guests together are a subject too: what they believe, and what there is.
            let host = screen.host();
            let word = |text: Option<String>| text.unwrap_or_default();
            let believed = word(host.kernel);
            let truth = word(host.truth);
            let text = format!(
                "mother top  {} guest(s): {believed}, {truth}: ",
                screen.sorted().len()
            );
            Line::from(vec![
                Span::raw(text),
                Span::styled(host.verdict.words(), colour(host.verdict)),
            ])
        }
    }
}

fn guests(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let mark = |name: &'static str, column: Column| {
        let arrow = if screen.is_reversed { "^" } else { "v" };
        let text = if screen.sort == column {
            format!("{name}{arrow}")
        } else {
            name.to_owned()
        };
        Cell::from(text).underlined()
    };
    let heads = Row::new([
        mark("NAME", Column::Name),
        Cell::from("STATE").underlined(),
        mark("CPU%", Column::Cpu),
        mark("CLAIM", Column::Claim),
        mark("KERNEL", Column::Kernel),
        mark("HELD", Column::Held),
        mark("GIVEN", Column::Given),
        Cell::from("TREND").underlined(),
        mark("VERDICT", Column::Verdict),
    ]);
    let widths = [
        Constraint::Min(8),
        Constraint::Length(8),
        Constraint::Length(5),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(2 + TREND as u16),
        Constraint::Length(14),
    ];
    let chosen = screen.chosen().map(|guest| guest.name.clone());
    let rows = screen.sorted().into_iter().map(|guest| {
        let row = row(guest);
        if Some(&guest.name) == chosen.as_ref() {
            row.add_modifier(Modifier::REVERSED)
        } else {
            row
        }
    });
    let rows: Vec<Row<'_>> = rows.collect();
    if rows.is_empty() {
        let nobody = "No guest runs. `mother run -d` starts one.";
        frame.render_widget(Paragraph::new(nobody), area);
        return;
    }
    frame.render_widget(Table::new(rows, widths).header(heads), area);
}

fn row(guest: &Guest) -> Row<'static> {
    let bytes = |bytes: Option<u64>| bytes.map_or("-".to_owned(), size);
    let verdict = match guest.verdict {
        Some(verdict) => Span::styled(verdict.words(), colour(verdict)),
        None => Span::styled("no answer", Style::new().fg(Color::Red)),
    };
    Row::new([
        Cell::from(guest.name.to_string()),
        Cell::from(guest.state.as_str()),
        Cell::from(guest.cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.0}"))),
        Cell::from(bytes(guest.claim)),
        Cell::from(bytes(guest.kernel)),
        Cell::from(bytes(guest.held)),
        Cell::from(bytes(guest.given)),
        Cell::from(trend(guest)),
        Cell::from(verdict),
    ])
}

fn colour(verdict: Verdict) -> Style {
    let style = Style::new();
    match verdict {
        Verdict::Contradicts => style
            .fg(Color::White)
            .bg(Color::Red)
            .add_modifier(Modifier::BOLD),
        Verdict::Differs => style.fg(Color::Magenta),
        Verdict::Costs => style.fg(Color::Yellow),
        Verdict::Agrees => style.fg(Color::Green),
        Verdict::NotObservable => style.fg(Color::DarkGray),
    }
}

/// A letter for what it is of, and a bar for each second, the highest being the largest of all that are shown.
fn trend(guest: &Guest) -> String {
    let highest = guest.trend.iter().copied().max().unwrap_or(0).max(1);
    let bar = |value: &u64| BARS[(u128::from(*value) * 7 / u128::from(highest)) as usize];
    let letter = if guest.is_working_set { 'w' } else { 'r' };
    format!(
        "{letter} {}",
        guest.trend.iter().map(bar).collect::<String>()
    )
}

fn process_lines(screen: &Screen) -> String {
    let Some(guest) = screen.chosen() else {
        return String::new();
    };
    match &guest.processes {
        Some(Ok(list)) => process_table::table(list),
        Some(Err(why)) => format!("not observable: {}", printable(why)),
        None => "looking...".to_owned(),
    }
}

fn truth_lines(screen: &Screen) -> String {
    let Some(guest) = screen.chosen() else {
        return String::new();
    };
    let trouble = guest
        .trouble
        .as_ref()
        .map_or(String::new(), |why| format!("{}\n\n", printable(why)));
    let given = guest
        .given_lines
        .as_ref()
        .map_or(String::new(), |lines| format!("{lines}\n"));
    trouble + &given + &verdicts::rows(&guest.rows)
}

/// Text that may be longer than the screen; contradictions in colour.
fn page(frame: &mut Frame<'_>, area: Rect, screen: &Screen, text: String) {
    let line = |line: &str| {
        let of = |verdict: Verdict| line.contains(verdict.words()).then(|| colour(verdict));
        let style = of(Verdict::Contradicts)
            .or_else(|| of(Verdict::Differs))
            .or_else(|| of(Verdict::Costs));
        Line::from(line.to_owned()).style(
            style
                .filter(|_| screen.page == Page::Truth)
                .unwrap_or_default(),
        )
    };
    let lines: Vec<Line<'_>> = text.lines().map(line).collect();
    let width = usize::from(area.width.max(1));
    let height: usize = lines
        .iter()
        .map(|line| line.width().div_ceil(width).max(1))
        .sum();
    let last = u16::try_from(height)
        .unwrap_or(u16::MAX)
        .saturating_sub(area.height);
    let text = Paragraph::new(Text::from(lines)).scroll((screen.scroll.min(last), 0));
    // Tables are cut at the edge; sentences are not.
    let text = if screen.page == Page::Truth {
        text.wrap(Wrap { trim: false })
    } else {
        text
    };
    frame.render_widget(text, area);
}
