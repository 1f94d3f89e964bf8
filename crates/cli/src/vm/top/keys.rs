//! Keys and the size of the window, from the process that has the terminal to the one in the jail that draws.
//!
//! The terminal stays outside: whoever has a descriptor of it has what is typed there later too. Keys come in over a pipe, a
//! line of JSON each, and the screen goes out as any output does.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, PipeReader, PipeWriter, Write};
use std::thread;
use std::time::Duration;

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::layout::Rect;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::observed::Screen;

/// What somebody does at a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Typed {
    /// A letter, and whether the control key was held.
    Letter(char, bool),
    /// A key without a letter.
    Key(Key),
    /// The window has so many columns and rows now.
    Size(u16, u16),
}

/// Keys without a letter that mean something here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Key {
    Up,
    Down,
    Left,
    Right,
    Enter,
    Escape,
    Backspace,
    PageUp,
    PageDown,
}

const KEYS: [(KeyCode, Key); 9] = [
    (KeyCode::Up, Key::Up),
    (KeyCode::Down, Key::Down),
    (KeyCode::Left, Key::Left),
    (KeyCode::Right, Key::Right),
    (KeyCode::Enter, Key::Enter),
    (KeyCode::Esc, Key::Escape),
    (KeyCode::Backspace, Key::Backspace),
    (KeyCode::PageUp, Key::PageUp),
    (KeyCode::PageDown, Key::PageDown),
];

impl Typed {
    fn of(event: &Event) -> Option<Typed> {
        match event {
            Event::Resize(columns, rows) => Some(Typed::Size(*columns, *rows)),
            Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                KeyCode::Char(letter) => {
                    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
                    Some(Typed::Letter(letter, is_control))
                }
                code => {
                    let known = KEYS.iter().find(|(known, _)| *known == code);
                    known.map(|(_, key)| Typed::Key(*key))
                }
            },
            _ => None,
        }
    }

    /// As the model takes it; none if it is no key.
    pub(super) fn key(self) -> Option<KeyEvent> {
        match self {
            Typed::Letter(letter, is_control) => {
                let modifiers = match is_control {
                    true => KeyModifiers::CONTROL,
                    false => KeyModifiers::NONE,
                };
                Some(KeyEvent::new(KeyCode::Char(letter), modifiers))
            }
            Typed::Key(key) => {
                let known = KEYS.iter().find(|(_, known)| *known == key);
                known.map(|(code, _)| KeyEvent::new(*code, KeyModifiers::NONE))
            }
            Typed::Size(..) => None,
        }
    }
}

/// The terminal, taken for a screen; it is as it was before when this goes.
#[derive(Debug)]
pub(super) struct Taken {
    /// Columns and rows.
    size: (u16, u16),
    keys: Option<PipeReader>,
}

impl Taken {
    /// Takes it, and hands on what is typed from now on.
    pub(super) fn take() -> Result<Taken, Failure> {
        let failed = |source| Failure::Terminal { act: "use", source };
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(failed(io::Error::other(
                "`mother top` is for people; for programs there is `mother truth --json NAME`",
            )));
        }
        super::leave_when_told().map_err(Failure::Signals)?;
        let (reader, writer) = io::pipe().map_err(failed)?;
        let terminal = ratatui::try_init().map_err(failed)?;
        // From here on it is put back by who drops this.
        let mut taken = Taken {
            size: (0, 0),
            keys: Some(reader),
        };
        let size = terminal.size().map_err(failed)?;
        taken.size = (size.width, size.height);
        let thread = thread::Builder::new().name("keys".to_owned());
        thread.spawn(move || hand_on(writer)).map_err(failed)?;
        Ok(taken)
    }
}

impl Screen for Taken {
    fn size(&self) -> (u16, u16) {
        self.size
    }

    fn keys(&mut self) -> Option<PipeReader> {
        self.keys.take()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        ratatui::restore();
        // Who was ended while it drew has hidden it.
        let _ = execute!(io::stdout(), Show);
    }
}

/// Hands on what is typed, for as long as somebody hears it.
fn hand_on(mut to: PipeWriter) {
    while let Ok(event) = event::read() {
        let Some(typed) = Typed::of(&event) else {
            continue;
        };
        let line = serde_json::to_string(&typed).map(|line| line + "\n");
        let handed_on = line.map(|line| to.write_all(line.as_bytes()));
        if !matches!(handed_on, Ok(Ok(()))) {
            return;
        }
    }
}

/// Where what is typed comes in.
pub(super) struct Keys(BufReader<File>);

impl Keys {
    pub(super) fn of(pipe: File) -> Keys {
        Keys(BufReader::new(pipe))
    }

    /// The next, if it comes in time.
    ///
    /// # Errors
    /// If nobody hands anything on any more.
    pub(super) fn next(&mut self, time: Duration) -> io::Result<Option<Typed>> {
        if self.0.buffer().is_empty() {
            let mut here = [PollFd::new(self.0.get_ref(), PollFlags::IN)];
            let time = Timespec::try_from(time).ok();
            match poll(&mut here, time.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
                heard => drop(heard?),
            }
        }
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(Some(serde_json::from_str(&line)?)),
        }
    }
}

/// The whole window.
pub(super) fn area((columns, rows): (u16, u16)) -> Rect {
    Rect::new(0, 0, columns, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_comes_out_as_it_went_in() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut keys = Keys::of(File::from(std::os::fd::OwnedFd::from(reader)));
        let press = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        let events = [
            press(KeyCode::Char('q'), KeyModifiers::NONE),
            press(KeyCode::Char('c'), KeyModifiers::CONTROL),
            press(KeyCode::Enter, KeyModifiers::NONE),
            Event::Resize(132, 43),
            Event::FocusGained,
            press(KeyCode::F(1), KeyModifiers::NONE),
        ];
        for event in &events {
            if let Some(typed) = Typed::of(event) {
                let line = serde_json::to_string(&typed).unwrap() + "\n";
                writer.write_all(line.as_bytes()).unwrap();
            }
        }
        let mut next = || keys.next(Duration::ZERO).unwrap();
        for event in &events[..3] {
            let key = next().unwrap().key();
            assert_eq!(Some(event), key.map(Event::Key).as_ref());
        }
        assert_eq!(next(), Some(Typed::Size(132, 43)));
        assert_eq!(next(), None, "nothing else means anything");
        drop(writer);
        assert!(keys.next(Duration::ZERO).is_err());
    }

    #[test]
    fn a_screen_is_as_large_as_it_is_told() {
        assert_eq!(area((80, 24)), Rect::new(0, 0, 80, 24));
    }
}
