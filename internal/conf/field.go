package conf

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// field is one key of a struct.
type field struct {
	name  string
	value reflect.Value
}

// fieldsOf lists the keys of a struct in their order there. A field without a json name, or with "-", is no key.
func fieldsOf(value reflect.Value) []field {
	var fields []field
	for i := range value.NumField() {
		name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			fields = append(fields, field{name: name, value: value.Field(i)})
		}
	}
	return fields
}

// nested reports whether the field has keys of its own, and is no value that reads itself.
func (f field) nested() bool {
	return f.value.Kind() == reflect.Struct && !readsItself(f.value)
}

func readsItself(value reflect.Value) bool {
	switch value.Addr().Interface().(type) {
	case encoding.TextUnmarshaler, json.Unmarshaler:
		return true
	}
	return false
}

func list(fields []field) string {
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		names = append(names, f.name)
	}
	return strings.Join(names, ", ")
}

// decode reads a YAML value into a fresh value, so that a list replaces the default one and a mistake leaves it alone. YAML reads
// on and 1 as other things than text, so the error says what the value is.
func decode(text []byte, into reflect.Value) error {
	fresh := reflect.New(into.Type())
	if err := yaml.UnmarshalStrict(text, fresh.Interface()); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return fmt.Errorf("is %s, want %s", have(kind.Value), want(into))
		}
		return fmt.Errorf("%s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "error unmarshaling JSON: "), "while decoding JSON: "))
	}
	into.Set(fresh.Elem())
	return nil
}

// have names what encoding/json found, want what a key takes, in words for people.
func have(value string) string {
	switch kind, _, _ := strings.Cut(value, " "); kind {
	case "bool":
		return "true or false"
	case "number":
		return "a number"
	case "array":
		return "a list"
	case "object":
		return "a group of keys"
	}
	return "a text"
}

func want(into reflect.Value) string {
	switch kind := into.Kind(); {
	case readsItself(into), kind == reflect.String:
		return "a text"
	case kind == reflect.Bool:
		return "true or false"
	case kind == reflect.Slice:
		return "a list"
	case kind == reflect.Struct, kind == reflect.Map:
		return "a group of keys"
	case into.CanInt(), into.CanUint():
		return fmt.Sprintf("a whole number (%s)", kind)
	}
	return "a " + into.Kind().String()
}

const prefix = "ASSAY_"

// environment applies the variables. One that is no key is a mistake too: a misspelt override must not be lost. Kubernetes puts the
// addresses of a Service named assay-* under such names into every pod; those are left alone.
func (r *reader) environment(source Source, into reflect.Value) {
	keys := map[string]field{}
	variables(into, prefix, keys)
	for _, setting := range source.Environ {
		name, value, _ := strings.Cut(setting, "=")
		if !strings.HasPrefix(name, prefix) || slices.Contains(source.Ignore, name) || serviceLink(name, value) {
			continue
		}
		f, known := keys[name]
		if !known {
			r.mistake("environment variable %s overrides no key", name)
			continue
		}
		if err := override(f.value, value); err != nil {
			r.mistake("environment variable %s: %v", name, err)
		}
	}
}

func variables(into reflect.Value, prefix string, keys map[string]field) {
	for _, f := range fieldsOf(into) {
		name := prefix + strings.ToUpper(f.name)
		if f.nested() {
			variables(f.value, name+"_", keys)
			continue
		}
		keys[name] = f
	}
}

func serviceLink(name, value string) bool {
	for _, mark := range []string{"_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"} {
		if strings.Contains(name, mark) {
			return true
		}
	}
	return strings.HasSuffix(name, "_PORT") && strings.HasPrefix(value, "tcp://")
}

func override(into reflect.Value, text string) error {
	if reader, is := into.Addr().Interface().(encoding.TextUnmarshaler); is {
		return reader.UnmarshalText([]byte(text))
	}
	switch {
	case into.Kind() == reflect.String:
		into.SetString(text)
		return nil
	case into.Kind() == reflect.Slice && into.Type().Elem().Kind() == reflect.String:
		parts := reflect.MakeSlice(into.Type(), 0, 0)
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				parts = reflect.Append(parts, reflect.ValueOf(part).Convert(into.Type().Elem()))
			}
		}
		into.Set(parts)
		return nil
	}
	return decode([]byte(text), into)
}
