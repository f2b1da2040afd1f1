//! How things look: signs where the terminal's locale has them, colours where they are wanted.
//!
//! Only the eight colours that every terminal has, so that its own palette decides what can be read on its
//! background; `NO_COLOR` takes even these away. Nothing is told by colour alone.

use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;

use super::model::Shown;
use crate::api::views::PhaseView;

/// How things look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) colours: Colours,
    pub(super) letters: Letters,
}

/// Which colours are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    Eight,
    None,
}

/// Which characters the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letters {
    Unicode,
    Ascii,
}

/// The signs.
#[derive(Debug)]
pub(super) struct Signs {
    pub(super) live: &'static str,
    pub(super) trouble: &'static str,
    pub(super) chosen: &'static str,
    pub(super) rule: &'static str,
    pub(super) starting: &'static str,
    idle: &'static str,
    busy: &'static str,
    draining: &'static str,
    paused: &'static str,
    dead: &'static str,
    pub(super) border: border::Set<'static>,
}

static UNICODE: Signs = Signs {
    live: "●",
    trouble: "▲",
    chosen: "▸ ",
    rule: "─",
    starting: "◌",
    idle: "○",
    busy: "●",
    draining: "▽",
    paused: "‖",
    dead: "✕",
    border: border::PLAIN,
};

static ASCII: Signs = Signs {
    live: "*",
    trouble: "!",
    chosen: "> ",
    rule: "-",
    starting: "+",
    idle: "o",
    busy: "*",
    draining: "v",
    paused: "=",
    dead: "x",
    border: border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    },
};

impl Look {
    /// As the environment wants it: `variable` gives the value of one.
    pub(super) fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let colours = match (set("NO_COLOR"), set("TERM").as_deref()) {
            (Some(_), _) | (None, Some("dumb")) => Colours::None,
            _ => Colours::Eight,
        };
        // The first of them that is set counts, as for any program of the system.
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
        let unicode = locale.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        Self { colours, letters: if unicode { Letters::Unicode } else { Letters::Ascii } }
    }

    pub(super) fn signs(self) -> &'static Signs {
        match self.letters {
            Letters::Unicode => &UNICODE,
            Letters::Ascii => &ASCII,
        }
    }

    pub(super) fn sign(self, shown: Shown) -> &'static str {
        let signs = self.signs();
        match shown {
            Shown::Paused => signs.paused,
            Shown::Phase(PhaseView::Starting) => signs.starting,
            Shown::Phase(PhaseView::Idle) => signs.idle,
            Shown::Phase(PhaseView::Busy) => signs.busy,
            Shown::Phase(PhaseView::Draining) => signs.draining,
            Shown::Phase(PhaseView::Dead) => signs.dead,
        }
    }

    pub(super) fn phase(self, shown: Shown) -> Style {
        match shown {
            Shown::Phase(PhaseView::Idle) => self.plain(),
            Shown::Phase(PhaseView::Busy) => self.good(),
            Shown::Phase(PhaseView::Starting | PhaseView::Draining) => self.warning(),
            Shown::Paused => self.warning().add_modifier(Modifier::BOLD),
            Shown::Phase(PhaseView::Dead) => self.bad(),
        }
    }

    pub(super) fn plain(self) -> Style {
        Style::new()
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    pub(super) fn warning(self) -> Style {
        self.coloured(Color::Yellow)
    }

    pub(super) fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn coloured(self, colour: Color) -> Style {
        match self.colours {
            Colours::Eight => Style::new().fg(colour),
            Colours::None => Style::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(set: &[(&str, &str)]) -> Look {
        Look::of_environment(|name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_is_heeded() {
        let unicode = Look { colours: Colours::Eight, letters: Letters::Unicode };
        assert_eq!(look(&[("LANG", "de_DE.UTF-8")]), unicode);
        assert_eq!(look(&[("LC_CTYPE", "C.utf8"), ("LANG", "C")]), unicode);
        assert_eq!(look(&[("LANG", "C.UTF-8"), ("NO_COLOR", "")]), unicode);
        assert_eq!(
            look(&[("LANG", "C.UTF-8"), ("NO_COLOR", "1")]),
            Look { colours: Colours::None, ..unicode }
        );
        assert_eq!(
            look(&[("LANG", "C.UTF-8"), ("TERM", "dumb")]),
            Look { colours: Colours::None, ..unicode }
        );
        assert_eq!(look(&[]), Look { letters: Letters::Ascii, ..unicode });
        assert_eq!(
            look(&[("LC_ALL", "C"), ("LANG", "C.UTF-8")]),
            Look { letters: Letters::Ascii, ..unicode }
        );
    }
}
