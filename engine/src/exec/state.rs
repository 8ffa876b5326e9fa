//! The states of a node, and the one function that changes them.

use crate::graph::NodeId;

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Not chosen for this run.
    Outside,
    /// Something it needs is not there yet.
    Waiting,
    /// All it needs is there; its key is known and it is not in the store.
    Ready,
    /// Another run computes this key.
    Blocked,
    /// An attempt is under way.
    Running,
    /// It ran, and its outputs are in the store.
    Done,
    /// Its outputs were in the store.
    Cached,
    /// Its last attempt failed.
    Failed,
    /// It cannot run because this node did not finish.
    Skipped(NodeId),
    /// The run ended first.
    Cancelled,
}

/// What can happen to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// All it needs is there, and it has to run.
    MustRun,
    /// All it needs is there, and so is its result.
    Found,
    /// Another run holds its key.
    Held,
    /// An attempt starts.
    Start,
    /// The attempt ended well.
    Finish,
    /// The attempt failed, and another follows.
    TryAgain,
    /// The attempt failed for good.
    Fail,
    /// Something it needs did not finish.
    Skip(NodeId),
    /// The run ends.
    Cancel,
    /// Its stored result turned out damaged, or an input of it did: it has to be looked at anew.
    Reopen,
}

/// A change that makes no sense in a state: a defect of the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node that is {state:?} cannot take {change:?}")]
pub struct IllegalChange {
    /// The state.
    pub state: NodeState,
    /// The change.
    pub change: Change,
}

impl NodeState {
    /// The state after a change.
    ///
    /// # Errors
    /// When the change makes no sense in this state.
    pub fn after(self, change: Change) -> Result<NodeState, IllegalChange> {
        use NodeState::{Blocked, Cached, Cancelled, Done, Failed, Ready, Running, Skipped, Waiting};
        Ok(match (self, change) {
            (Waiting | Blocked, Change::MustRun) => Ready,
            (Waiting | Ready | Blocked, Change::Found) => Cached,
            (Waiting | Ready | Blocked, Change::Held) => Blocked,
            (Ready, Change::Start) => Running,
            (Running, Change::Finish) => Done,
            (Running, Change::TryAgain) => Ready,
            (Running | Ready | Waiting | Blocked, Change::Fail) => Failed,
            (Waiting | Ready | Blocked, Change::Skip(because)) => Skipped(because),
            (Waiting | Ready | Blocked | Running, Change::Cancel) => Cancelled,
            (Cached | Running | Ready | Blocked, Change::Reopen) => Waiting,
            (state, change) => return Err(IllegalChange { state, change }),
        })
    }

    /// Whether nothing more will happen to it.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, NodeState::Waiting | NodeState::Ready | NodeState::Blocked | NodeState::Running)
    }

    /// Whether its outputs are there.
    #[must_use]
    pub fn has_outputs(self) -> bool {
        matches!(self, NodeState::Done | NodeState::Cached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_states_stay_but_for_a_damaged_result() {
        let changes = [
            Change::MustRun,
            Change::Found,
            Change::Held,
            Change::Start,
            Change::Finish,
            Change::TryAgain,
            Change::Fail,
            Change::Cancel,
        ];
        for state in [
            NodeState::Done,
            NodeState::Cached,
            NodeState::Failed,
            NodeState::Skipped(NodeId(0)),
            NodeState::Cancelled,
            NodeState::Outside,
        ] {
            assert!(state.is_final());
            for change in changes {
                assert!(state.after(change).is_err(), "{state:?} {change:?}");
            }
        }
        assert_eq!(NodeState::Cached.after(Change::Reopen), Ok(NodeState::Waiting));
        assert!(NodeState::Done.after(Change::Reopen).is_err());
    }
}
