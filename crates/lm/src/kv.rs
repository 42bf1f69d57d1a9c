//! Who holds which keys and values.
//!
//! A *node* holds the keys and values of a run of consecutive tokens in every layer. Sequences that share
//! a prefix share its nodes; a node's memory is freed when the last path through it is dropped, whatever
//! way a call ends. The store knows how many bytes are held, and that is what the memory budget bounds.

use std::cell::RefCell;
use std::rc::Rc;

/// All nodes of one call. `K` is the backend's storage.
#[derive(Debug)]
pub(crate) struct KvStore<K> {
    nodes: Vec<Option<(K, u64)>>,
    vacant: Vec<usize>,
    /// Filled by dropped handles, emptied by [`KvStore::free_bytes`].
    released: Rc<RefCell<Vec<usize>>>,
    used_bytes: u64,
    budget_bytes: u64,
}

/// Keeps a node's memory alive.
#[derive(Debug)]
pub(crate) struct KvNode {
    index: usize,
    released: Rc<RefCell<Vec<usize>>>,
}

impl Drop for KvNode {
    fn drop(&mut self) {
        self.released.borrow_mut().push(self.index);
    }
}

impl<K> KvStore<K> {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self { nodes: Vec::new(), vacant: Vec::new(), released: Rc::default(), used_bytes: 0, budget_bytes }
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Frees what nobody holds any more and returns how much of the budget is left.
    pub(crate) fn free_bytes(&mut self) -> u64 {
        for index in self.released.borrow_mut().drain(..) {
            if let Some((_, bytes)) = self.nodes[index].take() {
                self.used_bytes -= bytes;
                self.vacant.push(index);
            }
        }
        self.budget_bytes.saturating_sub(self.used_bytes)
    }

    /// Takes over a node that holds (or reserves) this many bytes.
    pub(crate) fn add(&mut self, node: K, bytes: u64) -> Rc<KvNode> {
        self.used_bytes += bytes;
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() - 1
        });
        self.nodes[index] = Some((node, bytes));
        Rc::new(KvNode { index, released: Rc::clone(&self.released) })
    }

    pub(crate) fn get(&self, node: &KvNode) -> Option<&K> {
        self.nodes.get(node.index)?.as_ref().map(|(node, _)| node)
    }

    pub(crate) fn nodes_mut(&mut self) -> impl Iterator<Item = &mut K> {
        self.nodes.iter_mut().flatten().map(|(node, _)| node)
    }

    pub(crate) fn get_mut(&mut self, node: &KvNode) -> Option<&mut K> {
        self.nodes.get_mut(node.index)?.as_mut().map(|(node, _)| node)
    }
}

/// A sequence's computed tokens: whole nodes from position 0 on.
#[derive(Clone, Debug, Default)]
pub(crate) struct KvPath {
    /// Each with its number of tokens.
    nodes: Vec<(Rc<KvNode>, usize)>,
    len: usize,
}

impl KvPath {
    /// Tokens on the path.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &KvNode> {
        self.nodes.iter().map(|(node, _)| &**node)
    }

    /// The node whose tokens are computed last.
    pub(crate) fn last(&self) -> Option<&KvNode> {
        self.nodes.last().map(|(node, _)| &**node)
    }

    /// Appends a node of which `tokens` are (or are about to be) computed.
    pub(crate) fn push(&mut self, node: Rc<KvNode>, tokens: usize) {
        self.len += tokens;
        self.nodes.push((node, tokens));
    }

    /// Counts one more token in the last node, which must belong to this path alone.
    pub(crate) fn grow(&mut self) {
        if let Some((_, tokens)) = self.nodes.last_mut() {
            *tokens += 1;
            self.len += 1;
        }
    }

    /// Drops whole nodes until at most `len` tokens are left. Planned branches end at node boundaries, so
    /// exactly `len` are left then; elsewhere the caller computes the difference again.
    pub(crate) fn truncate(&mut self, len: usize) {
        while self.len > len {
            let Some((_, tokens)) = self.nodes.pop() else { break };
            self.len -= tokens;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_as_long_as_any_path_through_it() {
        let mut store: KvStore<&str> = KvStore::new(100);
        let mut trunk = KvPath::default();
        trunk.push(store.add("trunk", 40), 4);
        let mut leaf = trunk.clone();
        leaf.push(store.add("leaf", 10), 1);
        assert_eq!((leaf.len(), store.free_bytes()), (5, 50));
        drop(trunk);
        assert_eq!(store.free_bytes(), 50);
        leaf.truncate(4);
        assert_eq!((leaf.len(), store.free_bytes()), (4, 60));
        assert_eq!(leaf.last().and_then(|node| store.get(node)), Some(&"trunk"));
        leaf.truncate(3);
        assert_eq!((leaf.len(), store.free_bytes()), (0, 100));
        let reused = store.add("next", 7);
        assert!(reused.index < 2);
    }
}
