//! What a picture is made of. Lengths are in pixels, y grows downwards.

/// A picture.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scene {
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// What it shows, in words, for those who cannot see it.
    pub(crate) description: String,
    /// From back to front.
    pub(crate) items: Vec<Item>,
}

/// A part of a picture.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Line {
        points: Vec<(f64, f64)>,
        ink: Ink,
        width: f64,
        dashes: &'static [f64],
    },
    Area {
        points: Vec<(f64, f64)>,
        ink: Ink,
        opacity: f64,
    },
    /// A disc, ringed by the background so that dots that overlap can be told apart.
    Dot {
        at: (f64, f64),
        radius: f64,
        ink: Ink,
        title: String,
    },
    Box {
        from: (f64, f64),
        size: (f64, f64),
        fill: Ink,
        stroke: Ink,
        title: String,
    },
    Text {
        at: (f64, f64),
        size: f64,
        anchor: Anchor,
        upright: bool,
        bold: bool,
        ink: Ink,
        text: String,
    },
}

/// What a text's place is of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A colour by its purpose; what draws the picture knows the colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    Background,
    Text,
    Muted,
    Grid,
    /// Of the series of this number.
    Series(usize),
    /// Faint shades for states of stages.
    Good,
    Known,
    Busy,
    Bad,
    Idle,
}

/// How many colours series have; further series are dashed.
pub(crate) const COLOURS: usize = 8;

/// Red, green, blue.
pub(crate) type Rgb = (u8, u8, u8);

/// The colours of series, on light and on dark, told apart by colour-blind readers, too (after Okabe and Ito, "Color
/// Universal Design", 2008, darkened where they were too faint for lines on white).
const SERIES: [(Rgb, Rgb); COLOURS] = [
    ((0, 114, 178), (86, 170, 232)),
    ((213, 94, 0), (255, 141, 77)),
    ((0, 138, 100), (51, 200, 152)),
    ((180, 85, 143), (230, 155, 200)),
    ((190, 130, 0), (240, 185, 60)),
    ((60, 150, 205), (150, 215, 255)),
    ((110, 80, 40), (200, 165, 120)),
    ((85, 85, 85), (190, 190, 190)),
];

impl Ink {
    /// On a light background.
    pub(crate) const fn light(self) -> Rgb {
        self.colours().0
    }

    /// On a dark background.
    pub(crate) const fn dark(self) -> Rgb {
        self.colours().1
    }

    /// On a light and on a dark background.
    const fn colours(self) -> (Rgb, Rgb) {
        match self {
            Self::Background => ((255, 255, 255), (23, 26, 31)),
            Self::Text => ((28, 31, 36), (232, 235, 240)),
            Self::Muted => ((92, 99, 110), (160, 168, 180)),
            Self::Grid => ((226, 229, 233), (52, 58, 66)),
            Self::Good => ((213, 238, 222), (24, 66, 44)),
            Self::Known => ((220, 232, 247), (28, 52, 84)),
            Self::Busy => ((253, 235, 200), (88, 64, 14)),
            Self::Bad => ((250, 216, 210), (98, 36, 28)),
            Self::Idle => ((238, 240, 242), (42, 47, 54)),
            Self::Series(number) => SERIES[number % COLOURS],
        }
    }
}

/// The dashes of a series' line: none for the first colours, then ever other ones.
pub(crate) const fn dashes(series: usize) -> &'static [f64] {
    match series / COLOURS {
        0 => &[],
        1 => &[6.0, 4.0],
        2 => &[2.0, 3.0],
        _ => &[9.0, 3.0, 2.0, 3.0],
    }
}
