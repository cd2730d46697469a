//! The account with the certificate authority.

use std::fmt;

use instant_acme::{Account, AccountCredentials, NewAccount};
use serde::{Deserialize, Serialize};

use crate::http::Http;
use crate::order::OrderError;

/// An account as it is stored, with its private key.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredAccount {
    directory: String,
    credentials: serde_json::Value,
}

impl fmt::Debug for StoredAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredAccount").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl StoredAccount {
    /// Whether it is one of this authority.
    pub(crate) fn is_of(&self, directory: &str) -> bool {
        self.directory == directory
    }

    /// Opens the account.
    pub(crate) async fn open(&self, http: Http) -> Result<Account, OrderError> {
        let credentials: AccountCredentials =
            serde_json::from_value(self.credentials.clone()).map_err(OrderError::Account)?;
        let builder = Account::builder_with_http(Box::new(http));
        builder.from_credentials(credentials).await.map_err(OrderError::acme("opening the account"))
    }
}

/// Makes an account with a new key. Its terms are agreed to: who configures a certificate authority wants to use it.
pub(crate) async fn create(
    http: Http,
    directory: &str,
    email: Option<&str>,
) -> Result<(Account, StoredAccount), OrderError> {
    let contact = email.map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let builder = Account::builder_with_http(Box::new(http));
    let made = builder.create(&new, directory.to_owned(), None).await;
    let (account, credentials) = made.map_err(OrderError::acme("making an account"))?;
    let credentials = serde_json::to_value(credentials).map_err(OrderError::Account)?;
    Ok((account, StoredAccount { directory: directory.to_owned(), credentials }))
}
