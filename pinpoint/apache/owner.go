package apache

import (
	"io/fs"
	"reflect"
)

// sameOwner compares the owners of two files. known is false where the system does not tell.
func sameOwner(a, b fs.FileInfo) (same, known bool) {
	u, ok := owner(a)
	v, ok2 := owner(b)
	return u == v, ok && ok2
}

func owner(fi fs.FileInfo) (uid uint64, ok bool) {
	v := reflect.Indirect(reflect.ValueOf(fi.Sys()))
	if v.Kind() != reflect.Struct {
		return 0, false
	}
	f := v.FieldByName("Uid")
	if !f.IsValid() || !f.CanUint() {
		return 0, false
	}
	return f.Uint(), true
}
