# Outside libraries, each as one imported target. pkg-config and CMake both honour CMAKE_PREFIX_PATH,
# so a build without root or Debian packages needs nothing but that variable.

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
pkg_check_modules(openblas REQUIRED IMPORTED_TARGET GLOBAL openblas)
pkg_check_modules(protobufc REQUIRED IMPORTED_TARGET GLOBAL libprotobuf-c>=1.3)
pkg_check_modules(zmq REQUIRED IMPORTED_TARGET GLOBAL libzmq>=4.3)
pkg_check_modules(libconfig REQUIRED IMPORTED_TARGET GLOBAL libconfig>=1.5)
pkg_check_modules(jansson REQUIRED IMPORTED_TARGET GLOBAL jansson>=2.12)
pkg_check_modules(sqlite REQUIRED IMPORTED_TARGET GLOBAL sqlite3>=3.35)
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET GLOBAL libpcre2-8)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET GLOBAL libutf8proc)
pkg_check_modules(hwloc REQUIRED IMPORTED_TARGET GLOBAL hwloc)
find_program(PROTOC_C protoc-c REQUIRED)

if(BUILD_TESTING)
  pkg_check_modules(cmocka_pc REQUIRED IMPORTED_TARGET GLOBAL cmocka)
  add_library(cmocka::cmocka ALIAS PkgConfig::cmocka_pc)
endif()
