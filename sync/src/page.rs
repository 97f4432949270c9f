//! Pages of long lists, and where the next one begins.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of a list.
///
/// See the example of [`PageRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// What is on it. It may be less than was asked for, even nothing, with more to come.
    pub items: Vec<T>,
    /// Where the next page begins; none if this is the last.
    pub next: Option<PageToken>,
}

impl<T> Page<T> {
    pub(crate) fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(change).collect(),
            next: self.next,
        }
    }

    pub(crate) fn try_map<U, E>(self, change: impl FnMut(T) -> Result<U, E>) -> Result<Page<U>, E> {
        Ok(Page {
            items: self
                .items
                .into_iter()
                .map(change)
                .collect::<Result<_, E>>()?,
            next: self.next,
        })
    }
}

/// Where a page of a list begins: an opaque text, good for the list that it came with only. It
/// can be handed on, to another process too.
///
/// ```
/// use zae_limiter::PageToken;
///
/// let handed_on = PageToken::from("from a query parameter".to_owned());
/// assert_eq!(handed_on.to_string(), "from a query parameter");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageToken(String);

impl PageToken {
    /// The text.
    ///
    /// See the example of [`PageToken`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for PageToken {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which page of a list is wanted. Default: the first, of at most 100 items.
///
/// ```
/// use zae_limiter::{Page, PageRequest};
///
/// # fn list(request: &PageRequest) -> Page<u32> { Page { items: vec![1], next: None } }
/// let mut request = PageRequest::default().size(20);
/// let mut all = Vec::new();
/// loop {
///     let page = list(&request);
///     all.extend(page.items);
///     match page.next {
///         Some(next) => request = request.after(next),
///         None => break,
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct PageRequest {
    /// The most items on it. Zero counts as one.
    pub size: u32,
    /// What the page before it said comes next; none for the first page.
    pub after: Option<PageToken>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self {
            size: 100,
            after: None,
        }
    }
}

impl PageRequest {
    /// The same page, with at most this many items. Default: 100.
    ///
    /// See the example of [`PageRequest`].
    pub fn size(mut self, size: u32) -> Self {
        self.size = size;
        self
    }

    /// The page that begins at `token`. Default: the first.
    ///
    /// See the example of [`PageRequest`].
    pub fn after(mut self, token: PageToken) -> Self {
        self.after = Some(token);
        self
    }
}
