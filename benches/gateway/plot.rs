//! Simple SVG charts for light and dark backgrounds.

use crate::stats::Spread;
use std::fmt::Write;

/// Fill colours by series, and text: on light, on dark.
const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #57606a } .title { font-weight: 600; fill: #24292f } \
.axis { stroke: #d0d7de } .s0 { fill: #afb8c1 } .s1 { fill: #8c959f } .s2 { fill: #d4772c } .s3 { fill: #0969da } \
.line { fill: none; stroke: #0969da; stroke-width: 2 } .spread { stroke: #0969da } \
@media (prefers-color-scheme: dark) { text { fill: #9198a1 } .title { fill: #f0f6fc } .axis { stroke: #3d444d } \
.s0 { fill: #656c76 } .s1 { fill: #848d97 } .s2 { fill: #f0883e } .s3 { fill: #4493f8 } .line, .spread { stroke: #4493f8 } }";

/// One chart in a drawing.
pub struct Panel {
    pub title: String,
    /// Labels below the horizontal axis.
    pub labels: Vec<String>,
    /// One value per label; a line joins the medians.
    pub values: Vec<Option<Spread>>,
    /// True to draw a point for every label; false for a line of many.
    pub points: bool,
}

/// Draws groups of bars from zero: one bar per series.
pub fn bars(title: &str, series: &[&str], groups: &[(String, Vec<Option<f64>>)]) -> String {
    let (left, top, height, bar, gap) = (48.0, 56.0, 200.0, 22.0, 24.0);
    let group = bar * series.len() as f64 + gap;
    let width = left + group * groups.len() as f64 + 16.0;
    let most = groups.iter().flat_map(|(_, values)| values).flatten().fold(0.0, |a: f64, b| a.max(*b));
    let scale = Scale::up_to(most, top, height);
    let mut svg = open(width, top + height + 32.0, title);
    for (n, name) in series.iter().enumerate() {
        let x = left + 110.0 * n as f64;
        let _ = write!(
            svg,
            "<rect class=\"s{n}\" x=\"{x}\" y=\"32\" width=\"10\" height=\"10\"/><text x=\"{}\" y=\"41\">{name}</text>",
            x + 15.0
        );
    }
    scale.draw(&mut svg, left, width - 8.0);
    for (n, (label, values)) in groups.iter().enumerate() {
        let start = left + gap / 2.0 + group * n as f64;
        for (series, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let (x, y) = (start + bar * series as f64, scale.y(*value));
            let _ = write!(
                svg,
                "<rect class=\"s{series}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{}\" height=\"{:.1}\"/>",
                bar - 3.0,
                scale.y(0.0) - y
            );
        }
        text(&mut svg, start + (group - gap) / 2.0, top + height + 18.0, "middle", label);
    }
    svg + "</svg>\n"
}

/// Draws panels in a grid.
pub fn lines(title: &str, panels: &[Panel]) -> String {
    let columns = panels.len().min(3);
    let (wide, high) = (300.0, 210.0);
    let rows = panels.len().div_ceil(columns.max(1));
    let mut svg = open(wide * columns as f64, 30.0 + high * rows as f64, title);
    for (n, panel) in panels.iter().enumerate() {
        let (x, y) = (wide * (n % columns) as f64, 30.0 + high * (n / columns) as f64);
        draw_panel(&mut svg, panel, x, y, wide, high);
    }
    svg + "</svg>\n"
}

fn draw_panel(svg: &mut String, panel: &Panel, x: f64, y: f64, wide: f64, high: f64) {
    let (left, right) = (x + 44.0, x + wide - 20.0);
    let top = y + 30.0;
    let most = panel.values.iter().flatten().fold(0.0, |most: f64, value| most.max(value.high));
    let scale = Scale::up_to(most, top, high - 66.0);
    text(svg, left, y + 18.0, "start", &panel.title);
    scale.draw(svg, left, right);
    let steps = (panel.labels.len().max(2) - 1) as f64;
    // points keep a distance to the axis, a line of many starts on it
    let inset = if panel.points { 16.0 } else { 0.0 };
    let place = |n: usize| left + inset + (right - left - 2.0 * inset) * n as f64 / steps;
    let mut path = String::new();
    for (n, (label, value)) in panel.labels.iter().zip(&panel.values).enumerate() {
        if !label.is_empty() {
            text(svg, place(n), y + high - 18.0, "middle", label);
        }
        let Some(value) = value else { continue };
        let at = place(n);
        let _ = write!(path, "{at:.1},{:.1} ", scale.y(value.median));
        if panel.points {
            let _ = write!(
                svg,
                "<path class=\"spread\" d=\"M{at:.1} {:.1}V{:.1}\"/><circle class=\"s2\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                scale.y(value.low),
                scale.y(value.high),
                scale.y(value.median)
            );
        }
    }
    let _ = write!(svg, "<polyline class=\"line\" points=\"{}\"/>", path.trim_end());
}

/// A vertical axis that starts at zero.
struct Scale {
    most: f64,
    step: f64,
    top: f64,
    height: f64,
}

impl Scale {
    /// Creates an axis with about four steps, each a round number.
    fn up_to(most: f64, top: f64, height: f64) -> Self {
        let rough = (most / 4.0).max(1e-9);
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * power);
        Self { most: (most / step).ceil().max(1.0) * step, step, top, height }
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height * (1.0 - value / self.most)
    }

    fn draw(&self, svg: &mut String, left: f64, right: f64) {
        let mut value = 0.0;
        while value <= self.most * 1.001 {
            let y = self.y(value);
            let _ = write!(svg, "<path class=\"axis\" d=\"M{left:.1} {y:.1}H{right:.1}\"/>");
            // as many decimals as the steps need
            let digits = (-self.step.log10().floor()).max(0.0) as usize;
            text(svg, left - 6.0, y + 4.0, "end", &format!("{value:.digits$}"));
            value += self.step;
        }
    }
}

fn open(width: f64, height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n<text class=\"title\" x=\"8\" y=\"18\">{title}</text>\n"
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}
