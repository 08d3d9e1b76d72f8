package conf

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// Source says where a configuration comes from.
type Source struct {
	// Path is the YAML file; empty means that there is none.
	Path string
	// Environ is os.Environ() or what stands for it.
	Environ []string
	// Ignore names variables that begin with ASSAY_ and are no keys of this program.
	Ignore []string
}

// Checker is a struct that checks its own values once all of them are read. It joins its mistakes by errors.Join.
type Checker interface{ Check() error }

// Error holds every mistake of a configuration.
type Error struct {
	// Path is the file, or empty.
	Path     string
	Mistakes []string
}

// Error lists the mistakes, each on a line of its own.
func (e *Error) Error() string {
	from := "configuration"
	if e.Path != "" {
		from += " " + e.Path
	}
	return from + ":\n  " + strings.Join(e.Mistakes, "\n  ")
}

// Load reads the configuration into target, a pointer to a struct that holds the defaults. The error is an *Error if the content is at
// fault, and another if the file cannot be read.
func Load(source Source, target any) error {
	root := reflect.ValueOf(target)
	if root.Kind() != reflect.Pointer || root.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("load configuration: target is %T, not a pointer to a struct", target)
	}
	r := reader{}
	text, err := readFile(source.Path)
	if err != nil {
		return err
	}
	r.file(text, root.Elem())
	r.environment(source, root.Elem())
	if len(r.mistakes) == 0 { // what Check finds in half-read values would mislead
		r.check(root.Elem())
	}
	if len(r.mistakes) > 0 {
		return &Error{Path: source.Path, Mistakes: r.mistakes}
	}
	return nil
}

// Format returns the effective values as YAML. Secrets show as "(hidden)".
func Format(target any) ([]byte, error) {
	text, err := yaml.Marshal(target)
	if err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	return text, nil
}

func readFile(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("read configuration: %s has %d bytes, more than %d", path, info.Size(), maxFileBytes)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return text, nil
}

// reader collects mistakes while it fills a struct.
type reader struct{ mistakes []string }

func (r *reader) mistake(format string, args ...any) {
	r.mistakes = append(r.mistakes, fmt.Sprintf(format, args...))
}

func (r *reader) file(text []byte, into reflect.Value) {
	var tree any
	if err := yaml.UnmarshalStrict(text, &tree); err != nil { // names lines, and refuses duplicate keys
		r.mistake("%s", strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "))
		return
	}
	switch tree := tree.(type) {
	case nil:
	case map[string]any:
		r.structure(tree, into, "")
	default:
		r.mistake("the file holds a %T, not keys", tree)
	}
}

// structure fills a struct from the keys of a tree, in the order of the keys' names so that mistakes come in a stable order.
func (r *reader) structure(tree map[string]any, into reflect.Value, prefix string) {
	fields := fieldsOf(into)
	names := make([]string, 0, len(tree))
	for name := range tree {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if i < 0 {
			r.mistake("unknown key %q; the keys here are %s", prefix+name, list(fields))
			continue
		}
		inner, nested := tree[name].(map[string]any)
		if nested && fields[i].nested() {
			r.structure(inner, fields[i].value, prefix+name+".")
			continue
		}
		text, err := yaml.Marshal(tree[name])
		if err == nil {
			err = decode(text, fields[i].value)
		}
		if err != nil {
			r.mistake("%s: %v", prefix+name, err)
		}
	}
}

// check calls Check of the innermost structs first.
func (r *reader) check(value reflect.Value) {
	for _, f := range fieldsOf(value) {
		if f.nested() {
			r.check(f.value)
		}
	}
	if checker, is := value.Addr().Interface().(Checker); is {
		r.joined(checker.Check())
	}
}

// joined takes the errors of errors.Join apart, so that each is a line of its own.
func (r *reader) joined(err error) {
	var many interface{ Unwrap() []error }
	switch {
	case err == nil:
	case errors.As(err, &many):
		for _, one := range many.Unwrap() {
			r.joined(one)
		}
	default:
		r.mistake("%v", err)
	}
}
