//! Threads that wait for work: one for each piece that is under way at the same time, kept for the next.
//!
//! Making a thread and ending it, with its stack and its share of the allocator, costs about as much as starting a small
//! program.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

type Work = Box<dyn FnOnce() + Send>;

/// The threads, and who of them has nothing to do.
pub(super) struct Threads {
    queue: Sender<Work>,
    waiting: Arc<Mutex<Receiver<Work>>>,
    idle: usize,
    all: Vec<JoinHandle<()>>,
}

impl Default for Threads {
    fn default() -> Self {
        let (queue, waiting) = channel();
        Self { queue, waiting: Arc::new(Mutex::new(waiting)), idle: 0, all: Vec::new() }
    }
}

impl Threads {
    /// Does a piece of work in a thread of its own, at once.
    pub(super) fn run(&mut self, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        match self.idle.checked_sub(1) {
            Some(rest) => self.idle = rest,
            None => {
                let waiting = Arc::clone(&self.waiting);
                self.all.push(std::thread::Builder::new().name("attempt".to_owned()).spawn(move || serve(&waiting))?);
            }
        }
        self.queue.send(Box::new(work)).map_err(|_| std::io::Error::other("no thread takes any more work"))
    }

    /// One piece of work is over: its thread is free for the next.
    pub(super) fn ended(&mut self) {
        self.idle += 1;
    }

    /// Waits until all work is over, and ends the threads.
    pub(super) fn finish(&mut self) {
        let Self { queue, all, .. } = std::mem::take(self);
        drop(queue);
        for thread in all {
            let _ = thread.join();
        }
    }
}

fn serve(waiting: &Mutex<Receiver<Work>>) {
    // Whoever waits for the queue holds it; the others wait for that.
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(work) = next() {
        work();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc::channel};

    use super::*;

    #[test]
    fn work_that_waits_for_other_work_gets_on_and_threads_are_used_again() {
        let mut threads = Threads::default();
        let (tell, told) = channel();
        for _ in 0..3 {
            let meet = Arc::new(Barrier::new(2));
            for _ in 0..2 {
                let (meet, tell) = (Arc::clone(&meet), tell.clone());
                threads.run(move || drop((meet.wait(), tell.send(std::thread::current().id())))).unwrap();
            }
            for _ in 0..2 {
                told.recv().unwrap();
                threads.ended();
            }
        }
        assert_eq!(threads.all.len(), 2);
        threads.finish();
        assert!(threads.all.is_empty());
    }
}
