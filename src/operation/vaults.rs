//! Opening the place that a vault is at, and what its errors mean for a person.

use std::sync::Arc;

use vault::encryption::Identities;
use vault::repository::Repository;
use vault::store::local::LocalStore;
use vault::store::s3::S3Store;
use vault::store::{ErrorKind, Store, StoreError};

use super::failure::{Failure, FailureKind};
use crate::config::place::Place;

