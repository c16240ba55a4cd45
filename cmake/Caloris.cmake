# How this project compiles, and the four helpers by which a folder names its parts:
#
#   caloris_library(NAME SOURCES … USES other libraries of ours … LINKS outside targets …)
#   caloris_program(NAME SOURCES … USES … LINKS …)
#   caloris_test(NAME SOURCES … USES … LINKS … LABELS … [TIMEOUT s] [PROCESSORS n] [COST s] [ARGS …])
#   caloris_mpi_test(NAME SOURCES … USES … RANKS 1 2 3 … LABELS … [TIMEOUT s])
#
# PROCESSORS: what a test keeps busy; 1 also where it mostly waits. COST: about how long such a one takes,
# so that ctest starts it early and has others to run beside it.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O3 -g -DNDEBUG" CACHE STRING "" FORCE)

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

set(CALORIS_SANITIZE "" CACHE STRING "Sanitizers to build with, as for -fsanitize=")
option(CALORIS_FUZZ "Build the fuzz targets, with clang; tests/fuzz/run.sh does" OFF)
option(CALORIS_WERROR "Treat warnings as errors" ON)

add_library(caloris_flags INTERFACE)
target_include_directories(caloris_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(caloris_flags INTERFACE _GNU_SOURCE CALORIS_VERSION="${PROJECT_VERSION}")
target_compile_options(caloris_flags INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -Wvla -Wmissing-prototypes -Wstrict-prototypes -Wformat=2
  -fstack-protector-strong -fno-math-errno)
if(CALORIS_WERROR)
  target_compile_options(caloris_flags INTERFACE -Werror)
endif()
if(CALORIS_FUZZ)
  set(CALORIS_SANITIZE address,undefined,fuzzer-no-link)
endif()
if(CALORIS_SANITIZE)
  target_compile_options(caloris_flags INTERFACE
    -fsanitize=${CALORIS_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(caloris_flags INTERFACE -fsanitize=${CALORIS_SANITIZE})
elseif(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  target_compile_definitions(caloris_flags INTERFACE _FORTIFY_SOURCE=2)
endif()

function(_caloris_link target scope)
  cmake_parse_arguments(arg "" "" "USES;LINKS" ${ARGN})
  list(TRANSFORM arg_USES PREPEND caloris_)
  target_link_libraries(${target} ${scope} ${arg_USES} ${arg_LINKS} caloris_flags)
endfunction()

function(caloris_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;USES;LINKS" ${ARGN})
  add_library(caloris_${name} STATIC ${arg_SOURCES})
  _caloris_link(caloris_${name} PUBLIC USES ${arg_USES} LINKS ${arg_LINKS})
endfunction()

function(caloris_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;USES;LINKS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  _caloris_link(${name} PRIVATE USES ${arg_USES} LINKS ${arg_LINKS})
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# What every test sees: where the sources and the programs are, and that one core per rank is enough
# (OMPI_MCA_…: Open MPI 4; PRTE_MCA_…: the launcher of Open MPI 5).
set(CALORIS_TEST_ENVIRONMENT
  "CALORIS_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
  "CALORIS_BIN_DIR=${CMAKE_BINARY_DIR}/bin"
  "OPENBLAS_NUM_THREADS=1"
  "OMPI_ALLOW_RUN_AS_ROOT=1"
  "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
  "OMPI_MCA_mpi_yield_when_idle=1"
  "OMPI_MCA_rmaps_base_oversubscribe=1"
  "OMPI_MCA_hwloc_base_binding_policy=none"
  "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"
  "PRTE_MCA_hwloc_default_binding_policy=none"
  "ASAN_OPTIONS=detect_leaks=1:suppressions=${PROJECT_SOURCE_DIR}/tests/tools/asan.supp"
  "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tools/lsan.supp:print_suppressions=0"
  "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tools/tsan.supp:halt_on_error=1"
  CACHE INTERNAL "")

function(_caloris_test_properties name)
  cmake_parse_arguments(arg "" "TIMEOUT;PROCESSORS;COST" "LABELS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  if(NOT arg_PROCESSORS)
    set(arg_PROCESSORS 1)
  endif()
  if(arg_COST)
    set_tests_properties(${name} PROPERTIES COST ${arg_COST})
  endif()
  set_tests_properties(${name} PROPERTIES
    LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} PROCESSORS ${arg_PROCESSORS}
    ENVIRONMENT "${CALORIS_TEST_ENVIRONMENT}" SKIP_RETURN_CODE 77)
  # The scripts call mpirun: that of the MPI built against, not whichever comes first.
  if(MPIEXEC_EXECUTABLE)
    cmake_path(GET MPIEXEC_EXECUTABLE PARENT_PATH mpi_bin)
    set_tests_properties(${name} PROPERTIES
      ENVIRONMENT_MODIFICATION "PATH=path_list_prepend:${mpi_bin}")
  endif()
endfunction()

function(caloris_test name)
  cmake_parse_arguments(arg "" "TIMEOUT;PROCESSORS;COST" "SOURCES;USES;LINKS;LABELS;ARGS" ${ARGN})
  add_executable(test_${name} ${arg_SOURCES})
  _caloris_link(test_${name} PRIVATE USES ${arg_USES} LINKS ${arg_LINKS} cmocka::cmocka)
  add_test(NAME ${name} COMMAND test_${name} ${arg_ARGS})
  _caloris_test_properties(${name} LABELS ${arg_LABELS} TIMEOUT ${arg_TIMEOUT}
    PROCESSORS ${arg_PROCESSORS} COST ${arg_COST})
endfunction()

# The same program under mpirun, once for each rank count.
function(caloris_mpi_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;USES;LINKS;LABELS;RANKS" ${ARGN})
  add_executable(test_${name} ${arg_SOURCES})
  _caloris_link(test_${name} PRIVATE USES ${arg_USES} LINKS ${arg_LINKS} cmocka::cmocka)
  foreach(ranks IN LISTS arg_RANKS)
    set(processors 2)
    if(ranks EQUAL 1)
      set(processors 1)
    endif()
    add_test(NAME ${name}_${ranks} COMMAND ${MPIEXEC_EXECUTABLE} -n ${ranks} $<TARGET_FILE:test_${name}>)
    _caloris_test_properties(${name}_${ranks} LABELS ${arg_LABELS} TIMEOUT ${arg_TIMEOUT}
      PROCESSORS ${processors})
  endforeach()
endfunction()

# A shell test: tests/e2e/NAME.sh drives the real programs. A clean tree stays clean: it works in a
# temporary directory that tests/e2e/lib.sh makes and removes.
function(caloris_script_test name script)
  cmake_parse_arguments(arg "" "TIMEOUT;PROCESSORS;COST" "LABELS;ARGS" ${ARGN})
  add_test(NAME ${name} COMMAND bash ${script} ${arg_ARGS})
  _caloris_test_properties(${name} LABELS ${arg_LABELS} TIMEOUT ${arg_TIMEOUT}
    PROCESSORS ${arg_PROCESSORS} COST ${arg_COST})
endfunction()
