package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces path by data. After a crash at any moment path holds the old content or the new one, whole; after a nil
// error it holds the new one. An error does not say which: the rename may have happened before it.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	folder := filepath.Dir(path)
	temporary, err := os.CreateTemp(folder, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := fill(temporary, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(temporary.Name())))
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(temporary.Name())))
	}
	if err := SyncDir(folder); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// CreateFile makes path with data where nothing is of that name, whole or not at all; otherwise it touches nothing and the error is an
// fs.ErrExist. The folder's file system must have hard links.
func CreateFile(path string, data []byte, mode fs.FileMode) error {
	folder := filepath.Dir(path)
	temporary, err := os.CreateTemp(folder, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	err = fill(temporary, data, mode)
	if err == nil {
		err = os.Link(temporary.Name(), path) // a rename would replace what came meanwhile
	}
	if err = errors.Join(err, os.Remove(temporary.Name())); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err := SyncDir(folder); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return nil
}

// fill writes, syncs and closes the file, in this order: a rename that reaches the disk before the data would leave an empty file.
func fill(file *os.File, data []byte, mode fs.FileMode) error {
	_, err := file.Write(data)
	if err == nil {
		err = file.Chmod(mode)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// SyncDir makes renames, new names and removals in a directory durable.
func SyncDir(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(folder.Sync(), folder.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}
