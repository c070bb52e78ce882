// Package docs has the documents that banger itself serves.
package docs

import _ "embed"

//go:embed openapi.yaml
var openAPI string

// OpenAPI returns the description of the daemon's API, openapi.yaml.
func OpenAPI() []byte { return []byte(openAPI) }
