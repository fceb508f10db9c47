// Command mkdb makes and judges bbolt databases for the tests, with bbolt's
// own code and hashes computed here, apart from the Rust code under test.
//
//	mkdb make   -out F [-page-size N] [-seed N] [-transactions N] [-keys N] ...
//	mkdb check  F        bbolt's own check; one line per error, exit 1
//	mkdb hash   F [R C]  status hash, totals and HashKV(R, C) as JSON
//	mkdb free   F        ids of the free pages, one a line
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"os"
	"strconv"

	bolt "go.etcd.io/bbolt"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: mkdb make|check|hash|free ...")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "make":
		err = makeDatabase(os.Args[2:])
	case "check":
		err = check(os.Args[2])
	case "hash":
		err = hash(os.Args[2], os.Args[3:])
	case "free":
		err = free(os.Args[2])
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func revision(main, sub int64, tombstone bool) []byte {
	key := binary.BigEndian.AppendUint64(nil, uint64(main))
	key = append(key, '_')
	key = binary.BigEndian.AppendUint64(key, uint64(sub))
	if tombstone {
		key = append(key, 't')
	}
	return key
}

// number appends a protobuf varint field, which proto3 leaves out when zero.
func number(to []byte, field int, value int64) []byte {
	if value == 0 {
		return to
	}
	return binary.AppendUvarint(append(to, byte(field<<3)), uint64(value))
}

func text(to []byte, field int, value []byte) []byte {
	if len(value) == 0 {
		return to
	}
	to = binary.AppendUvarint(append(to, byte(field<<3|2)), uint64(len(value)))
	return append(to, value...)
}

type state struct{ create, version int64 }

func makeDatabase(args []string) error {
	flags := flag.NewFlagSet("make", flag.ExitOnError)
	out := flags.String("out", "", "file to make")
	pageSize := flags.Int("page-size", 4096, "bytes of a page")
	seed := flags.Int64("seed", 1, "seed of the content")
	transactions := flags.Int("transactions", 300, "etcd transactions")
	keys := flags.Int("keys", 100, "different user keys")
	valueSize := flags.Int("value-size", 300, "mean bytes of a value")
	large := flags.Int("large", 0, "every n-th value is large")
	largeSize := flags.Int("large-size", 100_000, "bytes of a large value")
	compactEvery := flags.Int("compact-every", 0, "compact after so many transactions")
	unfinished := flags.Bool("unfinished", false, "leave the last compaction scheduled only")
	leases := flags.Int("leases", 5, "leases")
	users := flags.Int("users", 3, "users and roles")
	freelist := flags.Bool("freelist", false, "store the freelist")
	raw := flags.Bool("raw", false, "leave the file as it is, no snapshot with a trailer")
	batch := flags.Int("batch", 20, "etcd transactions in one bbolt transaction")
	flags.Parse(args)

	path := *out
	if !*raw {
		path += ".tmp"
	}
	os.Remove(path)
	random := rand.New(rand.NewSource(*seed))
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: *pageSize, NoFreelistSync: !*freelist, NoSync: true})
	if err != nil {
		return err
	}
	names := []string{"alarm", "auth", "authRoles", "authUsers", "cluster", "key", "lease", "members", "members_removed", "meta"}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range names {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		put := func(bucket, key string, value []byte) {
			if err := tx.Bucket([]byte(bucket)).Put([]byte(key), value); err != nil {
				panic(err)
			}
		}
		put("auth", "authEnabled", []byte{0})
		put("auth", "authRevision", revision(1, 0, false)[:8])
		for n := range *users {
			name := []byte(fmt.Sprintf("user%05d", n))
			put("authUsers", string(name), text(text(text(nil, 1, name), 2, []byte("secret")), 3, []byte("root")))
			put("authRoles", string(name), text(text(nil, 1, name), 2, text(number(nil, 1, 2), 2, []byte("a"))))
		}
		for n := range *leases {
			id := int64(0x1000 + n*3)
			put("lease", string(binary.BigEndian.AppendUint64(nil, uint64(id))), number(number(nil, 1, id), 2, 60))
		}
		put("cluster", "clusterVersion", []byte("3.6.0"))
		put("cluster", "downgrade", []byte(`{"target-version":"","enabled":false}`))
		put("members", "4d2", []byte(`{"id":1234,"peerURLs":["http://10.0.0.1:2380"],"name":"m1","clientURLs":["http://10.0.0.1:2379"]}`))
		put("members_removed", "10e1", []byte("removed"))
		put("meta", "consistent_index", binary.BigEndian.AppendUint64(nil, 77))
		put("meta", "term", binary.BigEndian.AppendUint64(nil, 3))
		put("meta", "confState", []byte(`{"voters":[1234],"auto_leave":false}`))
		put("meta", "storageVersion", []byte("3.6.0"))
		return nil
	})
	if err != nil {
		return err
	}

	states := map[int]state{}
	main := int64(1)
	compacted := int64(-1)
	for done := 0; done < *transactions; {
		err = db.Update(func(tx *bolt.Tx) error {
			records := tx.Bucket([]byte("key"))
			records.FillPercent = 0.9
			for range min(*batch, *transactions-done) {
				done++
				main++
				touched := map[int]bool{}
				for sub := range 1 + random.Intn(3) {
					n := random.Intn(*keys)
					if touched[n] {
						continue
					}
					touched[n] = true
					key := []byte(fmt.Sprintf("/registry/things/%06d", n))
					at, exists := states[n]
					if exists && random.Intn(4) == 0 {
						delete(states, n)
						if err := records.Put(revision(main, int64(sub), true), text(nil, 1, key)); err != nil {
							return err
						}
						continue
					}
					if !exists {
						at = state{create: main}
					}
					at.version++
					states[n] = at
					size := random.Intn(2**valueSize + 1)
					if *large > 0 && random.Intn(*large) == 0 {
						size = *largeSize
					}
					value := make([]byte, size)
					random.Read(value)
					kv := number(number(number(text(nil, 1, key), 2, at.create), 3, main), 4, at.version)
					kv = number(text(kv, 5, value), 6, int64(random.Intn(2))*0x1000)
					if err := records.Put(revision(main, int64(sub), false), kv); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if *compactEvery > 0 && done%*compactEvery < *batch {
			compacted = main - int64(random.Intn(*compactEvery/2+1))
			last := done >= *transactions
			if err := compact(db, compacted, *unfinished && last); err != nil {
				return err
			}
		}
	}
	if *raw {
		return db.Close()
	}
	defer os.Remove(path)
	file, err := os.OpenFile(*out, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	digest := sha256.New()
	err = db.View(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(io.MultiWriter(file, digest))
		return err
	})
	if err != nil {
		return err
	}
	if _, err := file.Write(digest.Sum(nil)); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return db.Close()
}

// compact drops what etcd drops; unfinished: only half of it.
func compact(db *bolt.DB, at int64, unfinished bool) error {
	return db.Update(func(tx *bolt.Tx) error {
		records := tx.Bucket([]byte("key"))
		meta := tx.Bucket([]byte("meta"))
		if err := meta.Put([]byte("scheduledCompactRev"), revision(at, 0, false)); err != nil {
			return err
		}
		keep := newest(records, at)
		var drop [][]byte
		err := records.ForEach(func(k, v []byte) error {
			if int64(binary.BigEndian.Uint64(k)) <= at && !keep[string(k)] {
				drop = append(drop, bytes.Clone(k))
			}
			return nil
		})
		if err != nil {
			return err
		}
		if unfinished {
			drop = drop[:len(drop)/2]
		}
		for _, k := range drop {
			if err := records.Delete(k); err != nil {
				return err
			}
		}
		if unfinished {
			return nil
		}
		return meta.Put([]byte("finishedCompactRev"), revision(at, 0, false))
	})
}

// userKey decodes field 1 of a KeyValue that this program or etcd wrote.
func userKey(value []byte) string {
	if len(value) < 2 || value[0] != 0x0a {
		return ""
	}
	length, n := binary.Uvarint(value[1:])
	return string(value[1+n : 1+n+int(length)])
}

// newest gives the record keys that live at a revision.
func newest(records *bolt.Bucket, at int64) map[string]bool {
	byKey := map[string]string{}
	records.ForEach(func(k, v []byte) error {
		if int64(binary.BigEndian.Uint64(k)) <= at {
			byKey[userKey(v)] = string(k)
		}
		return nil
	})
	keep := map[string]bool{}
	for _, k := range byKey {
		if len(k) == 17 {
			keep[k] = true
		}
	}
	return keep
}

func open(path string) (*bolt.DB, error) {
	return bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
}

func check(path string) error {
	db, err := open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		errors := 0
		for err := range tx.Check() {
			fmt.Println(err)
			errors++
		}
		if errors > 0 {
			return fmt.Errorf("%d errors", errors)
		}
		return nil
	})
}

func free(path string) error {
	db, err := open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		for id := 0; ; {
			page, err := tx.Page(id)
			if err != nil {
				return err
			}
			if page == nil {
				return nil
			}
			if page.Type == "free" {
				// What its header says of overflow is stale.
				fmt.Println(id)
				id++
				continue
			}
			id += 1 + page.OverflowCount
		}
	})
}

func hash(path string, args []string) error {
	at, compacted := int64(1)<<62, int64(-1)
	var err error
	if len(args) == 2 {
		if at, err = strconv.ParseInt(args[0], 10, 64); err != nil {
			return err
		}
		if compacted, err = strconv.ParseInt(args[1], 10, 64); err != nil {
			return err
		}
		if at == 0 {
			at = 1 << 62
		}
	}
	db, err := open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	table := crc32.MakeTable(crc32.Castagnoli)
	status, hashKV := crc32.New(table), crc32.New(table)
	entries, records, last := 0, 0, int64(0)
	live := 0
	err = db.View(func(tx *bolt.Tx) error {
		err := tx.ForEach(func(name []byte, bucket *bolt.Bucket) error {
			status.Write(name)
			return bucket.ForEach(func(k, v []byte) error {
				entries++
				status.Write(k)
				status.Write(v)
				return nil
			})
		})
		if err != nil {
			return err
		}
		bucket := tx.Bucket([]byte("key"))
		live = len(newest(bucket, 1<<62))
		keep := newest(bucket, at)
		hashKV.Write([]byte("key"))
		return bucket.ForEach(func(k, v []byte) error {
			records++
			main := int64(binary.BigEndian.Uint64(k))
			last = main
			if main > at || main <= compacted && len(keep) > 0 && !keep[string(k)] {
				return nil
			}
			if main == compacted && len(k) == 18 {
				return nil
			}
			hashKV.Write(k)
			hashKV.Write(v)
			return nil
		})
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"status_hash": status.Sum32(), "hash_kv": hashKV.Sum32(), "entries": entries,
		"records": records, "live_keys": live, "last_record": last,
	})
}
