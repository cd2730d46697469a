//! What happened.

use model::{Event, EventKind, Subject};

use super::{InvalidMessage, bounded, invalid, parse};
use crate::v1;

impl From<Event> for v1::Event {
    fn from(event: Event) -> Self {
        use v1::event::{Kind, Subject as Wire};
        let subject = match event.subject {
            Subject::Agent => Wire::Agent,
            Subject::Tunnel => Wire::Tunnel,
            Subject::Control => Wire::Control,
            Subject::Config => Wire::Config,
            Subject::Container => Wire::Container,
            Subject::Service => Wire::Service,
            Subject::Serving => Wire::Serving,
        };
        let kind = match event.kind {
            EventKind::Change => Kind::Change,
            EventKind::Fault => Kind::Fault,
            EventKind::Recovery => Kind::Recovery,
        };
        Self {
            number: event.number,
            at: event.at,
            host: event.host.into(),
            subject: subject.into(),
            service: event.service.map(Into::into).unwrap_or_default(),
            kind: kind.into(),
            text: bounded(&event.text),
        }
    }
}

impl TryFrom<v1::Event> for Event {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Event) -> Result<Self, InvalidMessage> {
        use v1::event::{Kind, Subject as Wire};
        let subject = match wire.subject() {
            Wire::Unspecified => return Err(invalid("Event.subject", "unknown")),
            Wire::Agent => Subject::Agent,
            Wire::Tunnel => Subject::Tunnel,
            Wire::Control => Subject::Control,
            Wire::Config => Subject::Config,
            Wire::Container => Subject::Container,
            Wire::Service => Subject::Service,
            Wire::Serving => Subject::Serving,
        };
        let kind = match wire.kind() {
            Kind::Unspecified | Kind::Change => EventKind::Change,
            Kind::Fault => EventKind::Fault,
            Kind::Recovery => EventKind::Recovery,
        };
        let service = (!wire.service.is_empty()).then(|| parse("Event.service", &wire.service)).transpose()?;
        Ok(Self {
            number: wire.number,
            at: wire.at,
            host: parse("Event.host", &wire.host)?,
            subject,
            service,
            kind,
            text: bounded(&wire.text),
        })
    }
}

/// The events that this release understands: a later one may tell of more.
///
/// # Errors
/// When there are more than [`crate::MAX_EVENTS`].
pub fn events(wire: v1::Events) -> Result<(String, Vec<Event>), InvalidMessage> {
    if wire.events.len() > crate::MAX_EVENTS {
        return Err(invalid("Events.events", format_args!("more than {} items", crate::MAX_EVENTS)));
    }
    let known = wire.events.into_iter().filter_map(|event| Event::try_from(event).ok()).collect();
    Ok((bounded(&wire.timeline), known))
}
