package api

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// object is a JSON object of the document; encoding/json sorts its keys, so the document is the same each time.
type object = map[string]any

// OpenAPI returns the OpenAPI 3.1 document of the native API, made from Operations and the Go types.
func OpenAPI() []byte {
	b := builder{schemas: object{}}
	paths := object{}
	for _, op := range Operations() {
		item, _ := paths[op.Path].(object)
		if item == nil {
			item = object{}
			paths[op.Path] = item
		}
		item[strings.ToLower(op.Method)] = b.operation(op)
	}
	document := object{
		"openapi": "3.1.0",
		"info":    object{"title": "Assay", "version": "v1", "description": "The native API. Clients authenticate by a certificate that carries a role; agents by a session."},
		"paths":   paths,
	}
	b.schema(reflect.TypeFor[Problem]())
	document["components"] = object{"schemas": b.schemas, "securitySchemes": object{"certificate": object{"type": "mutualTLS"}}}
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		panic(err) // the document is made of our own types alone
	}
	return append(text, '\n')
}

type builder struct{ schemas object }

func (b builder) operation(op Operation) object {
	out := object{"summary": op.Summary, "operationId": operationID(op)}
	var parameters []object
	for _, segment := range strings.Split(op.Path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			parameters = append(parameters, object{"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"}})
		}
	}
	if op.Pages {
		parameters = append(parameters,
			object{"name": "limit", "in": "query", "schema": object{"type": "integer", "minimum": 1, "maximum": MaxPage, "default": DefaultPage}},
			object{"name": "cursor", "in": "query", "schema": object{"type": "string"}})
	}
	if parameters != nil {
		out["parameters"] = parameters
	}
	if content := b.content(op.Request, op.RequestType); content != nil {
		out["requestBody"] = object{"required": true, "content": content}
	}
	good := object{"description": "done"}
	if content := b.content(op.Response, op.ResponseType); content != nil {
		good["content"] = content
	}
	out["responses"] = object{
		strconv.Itoa(op.Status): good,
		"default":               object{"description": "refused", "content": b.content(Problem{}, "")},
	}
	return out
}

// operationID is a unique word: the method and the path's words.
func operationID(op Operation) string {
	id := strings.ToLower(op.Method)
	for _, word := range strings.FieldsFunc(strings.TrimPrefix(op.Path, "/api/v1"), func(r rune) bool { return strings.ContainsRune("/{}.", r) }) {
		id += strings.ToUpper(word[:1]) + word[1:]
	}
	return id
}

func (b builder) content(body any, mediaType string) object {
	if mediaType != "" {
		return object{mediaType: object{"schema": object{"type": "string"}}}
	}
	if body == nil {
		return nil
	}
	return object{"application/json": object{"schema": b.schema(reflect.TypeOf(body))}}
}

// schema returns the schema of a type; structs are named in components and referred to.
func (b builder) schema(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[attest.Digest]():
		return object{"type": "string", "description": "ALGORITHM:HEX, or empty"}
	case t == reflect.TypeFor[attest.Verdict]():
		return object{"type": "string", "enum": attest.Verdicts()}
	case t.Kind() != reflect.Pointer && t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return b.schema(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "contentEncoding": "base64"}
		}
		return object{"type": "array", "items": b.schema(t.Elem())}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return object{"type": "integer"}
	case reflect.Struct:
		return b.named(t)
	}
	panic(fmt.Sprintf("api: no schema for %s", t)) // a type of ours that the document cannot show: the tests call OpenAPI
}

func (b builder) named(t reflect.Type) object {
	name := t.Name()
	if generic, argument, ok := strings.Cut(name, "["); ok {
		name = generic + "Of" + strings.TrimSuffix(argument[strings.LastIndex(argument, ".")+1:], "]")
	}
	reference := object{"$ref": "#/components/schemas/" + name}
	if _, done := b.schemas[name]; done {
		return reference
	}
	properties := object{}
	out := object{"type": "object", "properties": properties}
	b.schemas[name] = out
	var required []string
	for i := range t.NumField() {
		b.field(t.Field(i), properties, &required)
	}
	if required != nil {
		out["required"] = required
	}
	return reference
}

func (b builder) field(f reflect.StructField, properties object, required *[]string) {
	if f.Anonymous {
		for i := range f.Type.NumField() {
			b.field(f.Type.Field(i), properties, required)
		}
		return
	}
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return
	}
	properties[name] = b.schema(f.Type)
	if !strings.Contains(options, "omit") {
		*required = append(*required, name)
	}
}
