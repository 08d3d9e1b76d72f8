// Package api holds the types of the native API, /api/v1, and its OpenAPI document.
//
// It is what servers, the command line and agents agree on; it has no behaviour beyond parsing and validating its own values.
// Binary values are standard base64 in JSON, times RFC 3339, durations seconds.
package api
