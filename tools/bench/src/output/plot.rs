//! Lines on axes, as SVG: pure, from figures to text. Colours are the page's.

use std::fmt::Write;

use super::page::escape;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
/// Lines with more points than this have no marks on them.
const MARKS_MAX: usize = 150;

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By powers of ten.
    Log,
    /// Each step halves what is left to 100: 0, 90, 99, 99.9, …
    Percentile,
}

/// One axis.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    pub name: &'static str,
    pub scale: Scale,
    /// How figures on it are written.
    pub unit: fn(f64) -> String,
}

/// One line. The place in the list decides its colour.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub name: String,
    /// Rising in x.
    pub points: Vec<(f64, f64)>,
    /// Around it: x, least, most.
    pub range: Vec<(f64, f64, f64)>,
    /// Drawn broken: the other run's.
    pub dashed: bool,
    /// Its colour's number.
    pub colour: usize,
}

/// A plot.
#[derive(Debug, Clone)]
pub struct Plot {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

/// An axis with its ends: figures to places.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Extent {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Extent {
    fn of(scale: Scale, figures: impl Iterator<Item = f64>) -> Self {
        let (least, most) = figures
            .filter(|figure| figure.is_finite() && (scale != Scale::Log || *figure > 0.0))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), figure| (least.min(figure), most.max(figure)));
        let (from, to) = match scale {
            _ if least > most => {
                (if scale == Scale::Log { 1.0 } else { 0.0 }, if scale == Scale::Log { 10.0 } else { 1.0 })
            }
            Scale::Linear => (0.0, if most > 0.0 { most * 1.05 } else { 1.0 }),
            Scale::Log => {
                let from = 10_f64.powf(least.log10().floor());
                (from, 10_f64.powf(most.log10().ceil()).max(from * 10.0))
            }
            Scale::Percentile => (0.0, most.clamp(99.0, 99.9999)),
        };
        Self { scale, from, to }
    }

    /// 0 at its beginning, 1 at its end.
    fn place(&self, figure: f64) -> f64 {
        let along = |figure: f64| match self.scale {
            Scale::Linear => figure,
            Scale::Log => figure.max(f64::MIN_POSITIVE).log10(),
            Scale::Percentile => -(1.0 - figure.min(self.to) / 100.0).log10(),
        };
        (along(figure) - along(self.from)) / (along(self.to) - along(self.from))
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = nice_step((self.to - self.from) / 5.0);
                (0..=(self.to / step) as usize).map(|n| n as f64 * step).collect()
            }
            Scale::Log => {
                let decades = self.from.log10().round() as i32..=self.to.log10().round() as i32;
                decades.map(|decade| 10_f64.powi(decade)).collect()
            }
            Scale::Percentile => {
                [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999].into_iter().filter(|tick| *tick <= self.to).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, at least that.
fn nice_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(f64::MIN_POSITIVE).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least * 0.999)
        .unwrap_or(power * 10.0)
}

impl Plot {
    /// The plot as a figure of the page; nothing if there is nothing to draw.
    pub fn svg(&self) -> String {
        if self.lines.iter().all(|line| line.points.is_empty()) {
            return String::new();
        }
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let ranges = || self.lines.iter().flat_map(|line| line.range.iter().copied());
        let x = Extent::of(self.x.scale, points().map(|(x, _)| x));
        let y = Extent::of(self.y.scale, points().map(|(_, y)| y).chain(ranges().flat_map(|(_, a, b)| [a, b])));
        let across = |figure: f64| LEFT + x.place(figure) * (WIDTH - LEFT - RIGHT);
        let down = |figure: f64| HEIGHT - BOTTOM - y.place(figure).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!("<figure><figcaption>{}</figcaption>", escape(&self.title));
        svg += &self.legend();
        let _ =
            write!(svg, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(&self.title));
        for tick in y.ticks() {
            let (at, text) = (down(tick), escape(&(self.y.unit)(tick)));
            let end = WIDTH - RIGHT;
            let _ = write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
            let _ = write!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 6.0, at + 4.0);
        }
        for tick in x.ticks() {
            let (at, text) = (across(tick), escape(&(self.x.unit)(tick)));
            let (top, bottom) = (TOP, HEIGHT - BOTTOM);
            let _ = write!(svg, "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>");
            let _ = write!(svg, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>", bottom + 16.0);
        }
        let (middle, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0);
        let _ =
            write!(svg, "<text x=\"{middle}\" y=\"{bottom}\" text-anchor=\"middle\">{}</text>", escape(self.x.name));
        for line in &self.lines {
            self.draw(&mut svg, line, across, down);
        }
        svg + "</svg></figure>\n"
    }

    fn draw(&self, svg: &mut String, line: &Line, across: impl Fn(f64) -> f64, down: impl Fn(f64) -> f64) {
        let colour = line.colour % 6;
        if line.range.len() > 1 {
            let upper = line.range.iter().map(|(x, _, most)| format!("{:.1},{:.1}", across(*x), down(*most)));
            let lower = line.range.iter().rev().map(|(x, least, _)| format!("{:.1},{:.1}", across(*x), down(*least)));
            let outline: Vec<String> = upper.chain(lower).collect();
            let _ = write!(svg, "<polygon class=\"c{colour} range\" points=\"{}\"/>", outline.join(" "));
        }
        let places: Vec<String> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), down(*y))).collect();
        let dashed = if line.dashed { " dashed" } else { "" };
        let _ = write!(svg, "<polyline class=\"c{colour}{dashed}\" points=\"{}\"/>", places.join(" "));
        if line.points.len() > MARKS_MAX {
            return;
        }
        for (x, y) in &line.points {
            let (cx, cy) = (across(*x), down(*y));
            let text = escape(&format!("{}: {} at {}", line.name, (self.y.unit)(*y), (self.x.unit)(*x)));
            let _ = write!(
                svg,
                "<circle class=\"c{colour}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2.5\"><title>{text}</title></circle>"
            );
        }
    }

    fn legend(&self) -> String {
        let mut legend = String::from("<div class=\"legend\">");
        for line in self.lines.iter().filter(|line| !line.points.is_empty()) {
            let (colour, dashed) = (line.colour % 6, if line.dashed { " dashed" } else { "" });
            let _ = write!(legend, "<span><i class=\"k{colour}{dashed}\"></i>{}</span>", escape(&line.name));
        }
        legend + "</div>"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_lie_between_the_ends_of_their_axis() {
        for (scale, figures) in [
            (Scale::Linear, vec![0.0, 5.0, 100.0]),
            (Scale::Log, vec![0.2, 30.0, 9_000.0]),
            (Scale::Percentile, vec![0.0, 50.0, 99.99, 100.0]),
        ] {
            let extent = Extent::of(scale, figures.iter().copied());
            let places: Vec<f64> = figures.iter().map(|figure| extent.place(*figure)).collect();
            assert!(places.windows(2).all(|pair| pair[0] < pair[1] || pair[1] == 1.0), "{scale:?} {places:?}");
            assert!(places.iter().all(|place| (-1e-9..=1.0 + 1e-9).contains(place)), "{scale:?} {places:?}");
            assert!((3..=12).contains(&extent.ticks().len()), "{scale:?} {:?}", extent.ticks());
        }
    }

    #[test]
    fn steps_are_round() {
        assert_eq!(
            [0.3, 1.0, 3.0, 7.0, 1_100.0].map(nice_step).map(|step| (step * 1e6).round() / 1e6),
            [0.5, 1.0, 5.0, 10.0, 2_000.0]
        );
    }

    #[test]
    fn what_is_empty_is_not_drawn_and_names_are_escaped() {
        let axis = Axis { name: "t", scale: Scale::Linear, unit: |x| format!("{x}") };
        let mut plot = Plot { title: "<a>".into(), x: axis, y: axis, lines: vec![Line::default()] };
        assert_eq!(plot.svg(), "");
        plot.lines = vec![Line { name: "<b>".into(), points: vec![(0.0, 0.0), (1.0, f64::NAN)], ..Line::default() }];
        let svg = plot.svg();
        assert!(svg.contains("&lt;a&gt;") && svg.contains("&lt;b&gt;") && !svg.contains("<b>"), "{svg}");
    }
}
