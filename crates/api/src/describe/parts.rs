//! What the parts of a handler's signature say about its operation: each argument is a [`Part`], the
//! result an [`Answer`].

use std::future::Future;

use axum::Json;
use axum::extract::{Path, State};
use utoipa::ToSchema;

use super::Operation;
use crate::Api;
use crate::error::ApiError;

/// A handler's argument.
pub trait Part {
    fn describe(operation: &mut Operation);
}

/// A handler's result.
pub trait Answer {
    fn describe(operation: &mut Operation);
}

/// A handler; `T` are its arguments as axum's `Handler` counts them.
pub trait Described<T> {
    fn describe(&self, operation: &mut Operation);
}

macro_rules! handlers {
    ($($($part:ident)*;)*) => {$(
        impl<F, Fut, M, R, $($part),*> Described<(M, $($part,)*)> for F
        where
            F: Fn($($part),*) -> Fut,
            Fut: Future<Output = R>,
            R: Answer,
            $($part: Part,)*
        {
            fn describe(&self, operation: &mut Operation) {
                $($part::describe(operation);)*
                R::describe(operation);
            }
        }
    )*};
}

handlers! {
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E G;
}

impl Part for State<Api> {
    fn describe(_: &mut Operation) {}
}

/// The route's pattern says which there are.
impl<T> Part for Path<T> {
    fn describe(_: &mut Operation) {}
}

impl<T: ToSchema> Answer for Json<T> {
    fn describe(operation: &mut Operation) {
        operation.answers::<T>("200");
    }
}

impl<T: Answer> Answer for Result<T, ApiError> {
    fn describe(operation: &mut Operation) {
        T::describe(operation);
        operation.failure("default");
    }
}
