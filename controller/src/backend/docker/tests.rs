//! x
pub(super) fn order(_: &str) -> crate::backend::SpawnOrder {
    todo!()
}
