//! A scene as a PNG, with a font of our own: it looks the same on every machine.

use tiny_skia::{Color, FillRule, LineCap, LineJoin, Paint, PathBuilder, Pixmap, Stroke, StrokeDash, Transform};
use ttf_parser::{Face, OutlineBuilder};

use super::scene::{Anchor, Ink, Item, Scene};

/// DejaVu Sans (`DejaVuSans.LICENCE.txt`), Latin and Greek letters and a few signs.
static FONT: &[u8] = include_bytes!("DejaVuSans.subset.ttf");

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PngError {
    /// Of no size, or beyond all bounds.
    #[error("a picture of {0:.0} x {1:.0} pixels cannot be drawn")]
    Size(f64, f64),
    #[error("the built-in font cannot be read: {0}")]
    Font(#[from] ttf_parser::FaceParsingError),
    #[error("the picture cannot be encoded: {0}")]
    Encode(String),
}

/// Draws a scene, `scale` pixels for each of its units.
pub(crate) fn png(scene: &Scene, scale: f32) -> Result<Vec<u8>, PngError> {
    let size = |length: f64| {
        let pixels = (length * f64::from(scale)).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
        (1.0..=20_000.0).contains(&pixels).then_some(pixels as u32)
    };
    let canvas = size(scene.width).zip(size(scene.height)).and_then(|(width, height)| Pixmap::new(width, height));
    let mut canvas = canvas.ok_or(PngError::Size(scene.width, scene.height))?;
    canvas.fill(colour(Ink::Background, 1.0));
    let face = Face::parse(FONT, 0)?;
    let to_pixels = Transform::from_scale(scale, scale);
    for item in &scene.items {
        match item {
            Item::Line { points, ink, width, dashes } => {
                let Some(path) = path(points, false) else { continue };
                let dash: Vec<f32> = dashes.iter().map(|length| single(*length)).collect();
                let stroke = Stroke {
                    width: single(*width),
                    line_cap: LineCap::Butt,
                    line_join: LineJoin::Round,
                    dash: StrokeDash::new(dash, 0.0),
                    ..Stroke::default()
                };
                canvas.stroke_path(&path, &paint(*ink, 1.0), &stroke, to_pixels, None);
            }
            Item::Area { points, ink, opacity } => {
                if let Some(path) = path(points, true) {
                    canvas.fill_path(&path, &paint(*ink, single(*opacity)), FillRule::Winding, to_pixels, None);
                }
            }
            Item::Dot { at, radius, ink, .. } => {
                if let Some(path) = PathBuilder::from_circle(single(at.0), single(at.1), single(*radius)) {
                    canvas.fill_path(&path, &paint(*ink, 1.0), FillRule::Winding, to_pixels, None);
                    canvas.stroke_path(&path, &paint(Ink::Background, 1.0), &Stroke::default(), to_pixels, None);
                }
            }
            Item::Box { from, size, fill, stroke, .. } => {
                let (right, bottom) = (from.0 + size.0, from.1 + size.1);
                let corners = [*from, (right, from.1), (right, bottom), (from.0, bottom), *from];
                if let Some(path) = path(&corners, true) {
                    canvas.fill_path(&path, &paint(*fill, 1.0), FillRule::Winding, to_pixels, None);
                    canvas.stroke_path(&path, &paint(*stroke, 1.0), &Stroke::default(), to_pixels, None);
                }
            }
            Item::Text { at, size, anchor, upright, bold, ink, text } => {
                let place = Placement { at: *at, size: *size, anchor: *anchor, upright: *upright };
                let Some(path) = write(&face, text, &place) else { continue };
                canvas.fill_path(&path, &paint(*ink, 1.0), FillRule::Winding, to_pixels, None);
                if *bold {
                    let stroke = Stroke { width: single(size / 28.0), ..Stroke::default() };
                    canvas.stroke_path(&path, &paint(*ink, 1.0), &stroke, to_pixels, None);
                }
            }
        }
    }
    canvas.encode_png().map_err(|error| PngError::Encode(error.to_string()))
}

#[expect(clippy::cast_possible_truncation, reason = "pixels")]
fn single(value: f64) -> f32 {
    value as f32
}

fn colour(ink: Ink, opacity: f32) -> Color {
    let (r, g, b) = ink.light();
    let mut colour = Color::from_rgba8(r, g, b, 255);
    colour.apply_opacity(opacity);
    colour
}

fn paint(ink: Ink, opacity: f32) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(colour(ink, opacity));
    paint
}

fn path(points: &[(f64, f64)], close: bool) -> Option<tiny_skia::Path> {
    let mut path = PathBuilder::new();
    for (number, (x, y)) in points.iter().enumerate() {
        let (x, y) = (single(*x), single(*y));
        if number == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    if close {
        path.close();
    }
    path.finish()
}

struct Placement {
    at: (f64, f64),
    size: f64,
    anchor: Anchor,
    upright: bool,
}

/// The outlines of a text.
fn write(face: &Face<'_>, text: &str, place: &Placement) -> Option<tiny_skia::Path> {
    let scale = single(place.size) / f32::from(face.units_per_em());
    let glyphs: Vec<_> = text
        .chars()
        .filter_map(|c| face.glyph_index(c).or_else(|| face.glyph_index('\u{fffd}')))
        .map(|glyph| (glyph, f32::from(face.glyph_hor_advance(glyph).unwrap_or(0)) * scale))
        .collect();
    let width: f32 = glyphs.iter().map(|(_, advance)| advance).sum();
    let start = match place.anchor {
        Anchor::Start => 0.0,
        Anchor::Middle => -width / 2.0,
        Anchor::End => -width,
    };
    let mut pen = Pen {
        path: PathBuilder::new(),
        at: start,
        scale,
        origin: (single(place.at.0), single(place.at.1)),
        upright: place.upright,
    };
    for (glyph, advance) in glyphs {
        face.outline_glyph(glyph, &mut pen);
        pen.at += advance;
    }
    pen.path.finish()
}

struct Pen {
    path: PathBuilder,
    at: f32,
    scale: f32,
    origin: (f32, f32),
    upright: bool,
}

impl Pen {
    fn place(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = (self.at + x * self.scale, -y * self.scale);
        if self.upright { (self.origin.0 + y, self.origin.1 - x) } else { (self.origin.0 + x, self.origin.1 + y) }
    }
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.place(x1, y1), self.place(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.place(x1, y1), self.place(x2, y2), self.place(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ink_lands_where_it_should() {
        let text = Item::Text {
            at: (20.0, 30.0),
            size: 20.0,
            anchor: Anchor::Start,
            upright: false,
            bold: false,
            ink: Ink::Text,
            text: "H\u{4e00}".into(),
        };
        let line =
            Item::Line { points: vec![(0.0, 50.0), (100.0, 50.0)], ink: Ink::Series(0), width: 4.0, dashes: &[] };
        let scene = Scene { width: 100.0, height: 60.0, description: String::new(), items: vec![text, line] };
        let picture = Pixmap::decode_png(&png(&scene, 2.0).unwrap()).unwrap();
        assert_eq!((picture.width(), picture.height()), (200, 120));
        let rgb = |x, y| {
            let pixel = picture.pixel(x, y).unwrap();
            (pixel.red(), pixel.green(), pixel.blue())
        };
        assert_eq!(rgb(5, 5), Ink::Background.light());
        assert_eq!(rgb(100, 100), Ink::Series(0).light());
        let dark = (40..70).filter(|x| rgb(*x, 50) != Ink::Background.light()).count();
        assert!(dark > 4, "the letter has two stems: {dark} pixels");
        assert!(png(&Scene::default(), 1.0).is_err());
    }
}
