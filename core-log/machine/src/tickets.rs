//! What waits for appends to become durable.

use std::collections::VecDeque;

use crate::Ticket;

/// Numbers appends, and holds what may happen only once they are below the high watermark, in order.
#[derive(Debug)]
pub(crate) struct Tickets<T> {
    issued: Ticket,
    durable: Ticket,
    held: VecDeque<(Ticket, T)>,
}

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Self { issued: Ticket(0), durable: Ticket(0), held: VecDeque::new() }
    }
}

impl<T> Tickets<T> {
    /// The ticket of the next append.
    pub(crate) fn issue(&mut self) -> Ticket {
        self.issued = Ticket(self.issued.0 + 1);
        self.issued
    }

    /// Holds `item` until everything appended so far is durable; gives it back when it is already.
    pub(crate) fn hold(&mut self, item: T) -> Option<T> {
        if self.is_settled() {
            return Some(item);
        }
        self.held.push_back((self.issued, item));
        None
    }

    /// Notes that `ticket` and those before it are durable.
    pub(crate) fn settle(&mut self, ticket: Ticket) {
        self.durable = self.durable.max(ticket.min(self.issued));
    }

    /// Whether everything appended so far is durable.
    pub(crate) fn is_settled(&self) -> bool {
        self.durable >= self.issued
    }

    /// The next item whose wait is over. One by one, since what one does may hold another.
    pub(crate) fn next_ready(&mut self) -> Option<T> {
        let (ticket, _) = self.held.front()?;
        if *ticket > self.durable {
            return None;
        }
        self.held.pop_front().map(|(_, item)| item)
    }

    /// Takes out what `is_wanted` of that which waits for `ticket` and those before it.
    pub(crate) fn give_up(&mut self, ticket: Ticket, is_wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let (given_up, kept) = std::mem::take(&mut self.held)
            .into_iter()
            .partition::<Vec<_>, _>(|(until, item)| *until <= ticket && is_wanted(item));
        self.held = kept.into();
        given_up.into_iter().map(|(_, item)| item).collect()
    }

    /// What waits for `ticket` and those before it.
    pub(crate) fn held_until(&self, ticket: Ticket) -> impl Iterator<Item = &T> {
        self.held.iter().take_while(move |(until, _)| *until <= ticket).map(|(_, item)| item)
    }

    /// Everything that is held, ready or not.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.held).into_iter().map(|(_, item)| item)
    }
}
