//! How long a replica lives: whether it takes anything in, the one path on which a fault travels, and the tasks
//! that end with it. Knows nothing of what they do.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::ProposeError;

/// The life of one replica.
pub(crate) struct Life {
    node: u64,
    fatal: watch::Sender<Option<String>>,
    closing: watch::Sender<bool>,
    over: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Life {
    /// That of a replica on `node`.
    pub fn new(node: u64) -> Arc<Life> {
        Arc::new(Life {
            node,
            fatal: watch::Sender::new(None),
            closing: watch::Sender::new(false),
            over: watch::Sender::new(false),
            tasks: Mutex::default(),
        })
    }

    /// Ok while proposals and reads are taken.
    pub fn running(&self) -> Result<(), ProposeError> {
        if let Some(why) = self.fatal.borrow().as_deref() {
            return Err(ProposeError::fault(why));
        }
        if self.is_closing() {
            return Err(ProposeError::unavailable("this node is shutting down"));
        }
        Ok(())
    }

    /// True once this node stops.
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Waits until the replica closes or can promise nothing any more.
    pub async fn ended(&self) {
        let (mut closing, mut fatal) = (self.closing.subscribe(), self.fatal.subscribe());
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            _ = fatal.wait_for(Option::is_some) => {}
        }
    }

    /// Why it can promise nothing any more; set once.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.subscribe()
    }

    /// It can promise nothing any more. The first reason stays.
    pub fn fail(&self, why: &str) {
        let first = self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                *fatal = Some(why.to_owned());
            }
            first
        });
        if first {
            tracing::error!(node = self.node, why, "this replica must stop");
        }
    }

    /// It stops. True when it did already.
    pub fn close(&self) -> bool {
        self.closing.send_replace(true)
    }

    /// Keeps a background task until the end.
    pub fn keep(&self, task: JoinHandle<()>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// Waits until it has ended: there is no consensus any more that could take an error for a fault.
    pub async fn over(&self) {
        // The sender lives as long as this.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Ends the background tasks. The consensus has ended before.
    pub fn end(&self) {
        self.over.send_replace(true);
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}
