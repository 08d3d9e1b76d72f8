package durable

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
)

// WriteJSON replaces path by v, indented, as WriteFile does.
func WriteJSON(path string, v any, mode fs.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return WriteFile(path, data, mode)
}

// ReadJSON reads what WriteJSON wrote: a file of our own, so that unknown members are no mistake. A file that is not there is fs.ErrNotExist.
func ReadJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
