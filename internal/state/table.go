package state

import (
	"iter"
	"reflect"
	"slices"

	"github.com/cilium/statedb"
	"github.com/cilium/statedb/index"
)

// Index finds objects by other values than their key.
type Index[T any] struct {
	Name string
	Of   func(T) []string
}

// Table holds objects of one type, usually pointers to immutable values.
type Table[T any] struct {
	id      TableID
	key     func(T) string
	table   statedb.RWTable[T]
	primary statedb.Index[T, string]
	indexes map[string]tableIndex[T]
}

type tableIndex[T any] struct {
	of  func(T) []string
	idx statedb.Index[T, string]
}

// NewTable registers a table. Names (lower case, dashes) are unique in a database; a second one panics, for it is a
// mistake in the program.
func NewTable[T any](db *DB, name string, key func(T) string, indexes ...Index[T]) *Table[T] {
	t := &Table[T]{id: TableID{&tableName{name}}, key: key, indexes: map[string]tableIndex[T]{}}
	t.primary = statedb.Index[T, string]{
		Name:       "id",
		FromObject: func(o T) index.KeySet { return index.NewKeySet(index.String(key(o))) },
		FromKey:    index.String,
		Unique:     true,
	}
	var secondary []statedb.Indexer[T]
	for _, i := range indexes {
		idx := statedb.Index[T, string]{
			Name:       i.Name,
			FromObject: func(o T) index.KeySet { return index.StringSlice(i.Of(o)) },
			FromKey:    index.String,
		}
		t.indexes[i.Name] = tableIndex[T]{of: i.Of, idx: idx}
		secondary = append(secondary, idx)
	}
	table, err := statedb.NewTableAny(db.db, name,
		func() []string { return []string{"Key"} },
		func(o T) []string { return []string{key(o)} },
		t.primary, secondary...)
	if err != nil {
		panic(err)
	}
	t.table = table
	return t
}

func (t *Table[T]) meta() statedb.TableMeta { return t.table }

// ID returns what the table's keys carry.
func (t *Table[T]) ID() TableID { return t.id }

// Row returns the key of the row that changed key k is about. It reports whether k is about a row of this table.
func (t *Table[T]) Row(k Key) (string, bool) { return k.Value, k.Table == t.id && k.Index == "" }

// Get finds an object by its key.
func (t *Table[T]) Get(s *Snapshot, key string) (T, bool) {
	s.read(Key{t.id, "", key})
	o, _, ok := t.table.Get(s.txn, t.primary.Query(key))
	return o, ok
}

// Revision returns an object and the revision of its row. A later change of the row has a higher revision, so a reader
// that reports what it did at a revision can be compared with the row as it is now. It is 0 if there is no such row.
func (t *Table[T]) Revision(s *Snapshot, key string) (T, uint64, bool) {
	s.read(Key{t.id, "", key})
	return t.table.Get(s.txn, t.primary.Query(key))
}

// By lists the objects that an index holds for a value, in the order of their keys.
func (t *Table[T]) By(s *Snapshot, indexName, value string) iter.Seq[T] {
	s.read(Key{t.id, indexName, value})
	return values(t.table.List(s.txn, t.indexes[indexName].idx.Query(value)))
}

// All lists the table in the order of keys.
func (t *Table[T]) All(s *Snapshot) iter.Seq[T] {
	s.read(Key{t.id, wholeTable, ""})
	return values(t.table.All(s.txn))
}

// Len counts the objects.
func (t *Table[T]) Len(s *Snapshot) int {
	s.read(Key{t.id, wholeTable, ""})
	return t.table.NumObjects(s.txn)
}

func values[T any](seq iter.Seq2[T, uint64]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for o := range seq {
			if !yield(o) {
				return
			}
		}
	}
}

// Put inserts or replaces an object. An equal object is left as it is and changes nothing.
func (t *Table[T]) Put(w *Write, o T) {
	old, _, had := t.table.Get(w.txn, t.primary.Query(t.key(o)))
	if had && reflect.DeepEqual(old, o) {
		return
	}
	if _, _, err := t.table.Insert(w.txn, o); err != nil {
		panic(err) // the transaction does not hold the table: a mistake in the program
	}
	t.touch(w, o)
	if had {
		t.touch(w, old)
	}
}

// Delete removes an object by its key; a missing one changes nothing.
func (t *Table[T]) Delete(w *Write, key string) {
	old, _, had := t.table.Get(w.txn, t.primary.Query(key))
	if !had {
		return
	}
	if _, _, err := t.table.Delete(w.txn, old); err != nil {
		panic(err)
	}
	t.touch(w, old)
}

func (t *Table[T]) touch(w *Write, o T) {
	if !slices.Contains(w.tables, t.id) {
		w.tables = append(w.tables, t.id)
	}
	w.changed[Key{t.id, "", t.key(o)}] = struct{}{}
	w.changed[Key{t.id, wholeTable, ""}] = struct{}{}
	for name, i := range t.indexes {
		for _, v := range i.of(o) {
			w.changed[Key{t.id, name, v}] = struct{}{}
		}
	}
}

// AnyKey is touched by every change of the table.
func (t *Table[T]) AnyKey() Key { return Key{t.id, wholeTable, ""} }
