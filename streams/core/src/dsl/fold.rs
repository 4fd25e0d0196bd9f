//! Closures as folds.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use super::table::WantsOld;
use super::{Change, Serde};
use crate::chunk::{Chunk, Data, Pairs, Rows};
use crate::error::{Result, StreamsError};
use crate::kernel::{Fold, Group, KeyColumn, Pick};
use crate::rule::Window;

/// Makes the key of a result from key bytes and window.
pub(super) type ResultKey<K> = fn(&Bytes, Option<Window>) -> Result<K>;

/// Names types without holding values of them.
type Rowless<K, V, A> = fn() -> (K, V, A);

/// Folds typed rows with `step`, which is given none for a new group. State and result are the same value; a null is no state.
pub(super) struct TypedFold<K, V, A, RK, F> {
    step: Arc<F>,
    result_key: ResultKey<RK>,
    wants_old: WantsOld,
    rows: PhantomData<Rowless<K, V, A>>,
}

impl<K, V, A, RK, F> TypedFold<K, V, A, RK, F> {
    pub(super) fn new(step: Arc<F>, result_key: ResultKey<RK>, wants_old: WantsOld) -> Self {
        Self { step, result_key, wants_old, rows: PhantomData }
    }
}

impl<K, V, A, RK, F> Fold for TypedFold<K, V, A, RK, F>
where
    K: Serde,
    V: Serde,
    A: Serde,
    RK: Data,
    F: Fn(Option<A>, &K, &V) -> A + Send + Sync + 'static,
{
    type State = Option<A>;

    fn keys(&mut self, chunk: &Chunk, keys: &mut KeyColumn) -> Result<()> {
        let rows = chunk.pairs::<K, V>()?;
        for (key, value) in rows.keys.iter().zip(&rows.values) {
            if value.is_null() {
                keys.push_null(); // trap 4: a null value is no row of an aggregation
            } else {
                keys.push_serde(key)?;
            }
        }
        Ok(())
    }

    fn init(&mut self) -> Result<Self::State> {
        Ok(None)
    }

    fn load(&mut self, bytes: &Bytes) -> Result<Self::State> {
        A::decode(bytes).map(Some)
    }

    fn save(&mut self, state: &mut Self::State, bytes: &mut Vec<u8>) -> Result<()> {
        let written = state.as_ref().map_or(Ok(false), |state| state.encode(bytes))?;
        if written {
            return Ok(());
        }
        Err(StreamsError::Encode {
            what: "aggregate",
            reason: "its encoding is null, but is_null() of its type says that it is not; let both agree"
                .to_owned(),
        })
    }

    fn exists(&self, state: &Self::State) -> bool {
        state.is_some()
    }

    fn fold(&mut self, states: &mut [Self::State], chunk: &Chunk, picks: &[Pick]) -> Result<()> {
        let rows = chunk.pairs::<K, V>()?;
        for pick in picks {
            let (row, state) = (pick.row as usize, &mut states[pick.slot as usize]);
            let made = (self.step)(state.take(), &rows.keys[row], &rows.values[row]);
            *state = Some(made).filter(|made| !made.is_null());
        }
        Ok(())
    }

    fn emit(&mut self, groups: Vec<Group<'_, Self::State>>) -> Result<Rows> {
        let mut rows = Pairs::with_capacity(groups.len());
        let asked = self.wants_old.asked();
        for group in groups {
            let old = group.old.filter(|_| asked).map(|bytes| A::decode(&bytes)).transpose()?;
            let key = (self.result_key)(&Bytes::copy_from_slice(group.key), group.window)?;
            rows.push(key, Change { old, new: group.state.clone() });
        }
        Ok(Rows::Typed(Box::new(rows)))
    }
}
